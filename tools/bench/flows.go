package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/pprof"
	"strings"

	"github.com/caplance/caplance/core/verdict"
)

// benchFlows measures the price of a new flow: our verdict loop with the round-robin
// policy, the flow table and the tunnel, against go-nfqueue's callback that
// drops everything, on the same rule and queue. Twice: under a flood that takes
// a processor away from both, and with a full queue to work off in peace, where
// no sender can be the one that is too slow.
//
//	sender ── eth0 balancer br0 ── 64 backends, who do not exist: what has been
//	flood     NFQUEUE 1337         sent to them has left the balancer, and ends
func benchFlows(ctx context.Context, b *bench) (err error) {
	r, err := newFlowRig(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	systems := []struct {
		name string
		open func(verdict.Handler) (stop func() error, err error)
		verdict.Handler
	}{
		{"go-nfqueue callback, constant drop", r.callback, dropAll{}},
		{"go-nfqueue callback, policy, flow table, tunnel", r.callback, r.parts.worker},
		{"verdict loop, policy, flow table, tunnel", r.loop, r.parts.worker},
	}
	var offered []float64
	for _, load := range []struct {
		metric string
		round  func(context.Context, func(verdict.Handler) (func() error, error), verdict.Handler) (float64, error)
	}{
		{"new flows/s, full queue", r.drain},
		{"new flows/s, flood", r.underFlood},
	} {
		var all []*series
		for i, s := range systems {
			var base *series
			if i > 0 {
				base = all[0]
			}
			all = append(all, b.measure(s.name, load.metric, "1/s", base))
		}
		for i := range b.rounds {
			b.step(load.metric, i+1, b.rounds)
			for j, s := range systems {
				stop, err := b.startProfile(i == b.rounds/2 && j == len(systems)-1, load.metric)
				if err != nil {
					return err
				}
				n, err := load.round(ctx, s.open, s.Handler)
				stop()
				if err != nil {
					return err
				}
				all[j].add(n)
			}
			offered = append(offered, r.offered)
		}
	}
	b.measure("offered to the verdict loop", "new flows/s, flood", "1/s", nil).samples = offered[b.rounds:]
	return r.parts.check()
}

// startProfile profiles one of our rounds, in the middle: all is warm then.
func (b *bench) startProfile(wanted bool, metric string) (stop func(), err error) {
	if b.profile == "" || !wanted {
		return func() {}, nil
	}
	_, load, _ := strings.Cut(metric, ", ")
	f, err := os.Create(b.profile + "." + strings.ReplaceAll(load, " ", "-"))
	if err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	return func() {
		pprof.StopCPUProfile()
		f.Close()
	}, nil
}

// dropAll is the cheapest handler there is.
type dropAll struct{ idle }

func (dropAll) Packet([]byte, uint32) verdict.Verdict { return verdict.Drop }
