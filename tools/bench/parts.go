package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/counters"
	"github.com/caplance/caplance/core/datapath"
	"github.com/caplance/caplance/core/forward"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/policies"
)

const backendCount = 64

func backendAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 78, 0, byte(1 + i)}) }

// poolOf returns a pool of backendCount backends of one service.
func poolOf(s *core.Service) *core.Pool {
	backends := make([]core.Backend, backendCount)
	for i := range backends {
		backends[i] = core.Backend{Name: fmt.Sprintf("b%d", i), Addr: backendAddr(i), Weight: 1, Since: time.Unix(1, 0), TunnelMTU: 1472}
	}
	return core.NewPoolBuilder(s).Build(backends)
}

// scheduler returns a policy as one worker runs it; stop ends it.
func scheduler(ctx context.Context, policy string) (s *host.Scheduler, stop func() error, err error) {
	rt, err := host.NewRuntime(ctx)
	if err != nil {
		return nil, nil, err
	}
	stop = func() error { return rt.Close(context.Background()) }
	name, wasm, err := policies.Load(policy)
	if err == nil {
		var p *host.Policy
		if p, err = rt.Compile(ctx, name, wasm); err == nil {
			s, err = p.NewScheduler(ctx, host.Config{Workers: 1})
		}
	}
	if err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	return s, func() error { return errors.Join(s.Close(), rt.Close(context.Background())) }, nil
}

// parts is one worker put together as the daemon does it, without the rest.
type parts struct {
	worker *datapath.Worker
	sched  *host.Scheduler
	sender *forward.Sender
	undo   []func() error
}

// newParts opens the sockets in the calling thread's network namespace.
func newParts(ctx context.Context, cfg *config.Server) (_ *parts, err error) {
	p := &parts{}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	sched, stop, err := scheduler(ctx, cfg.Services[0].Policy)
	if err != nil {
		return nil, err
	}
	p.sched, p.undo = sched, append(p.undo, stop)
	if p.sender, err = forward.Open(cfg.Datapath.TunnelPort); err != nil {
		return nil, err
	}
	p.undo = append(p.undo, p.sender.Close)
	raw, err := forward.OpenRaw()
	if err != nil {
		return nil, err
	}
	p.undo = append(p.undo, raw.Close)
	snapshot := &core.Snapshot{
		Settings: cfg.Settings(1), Services: core.NewServiceSet(cfg.Services), Links: &core.LinkSet{MTU: 1500},
		Pools: core.NewPoolSet().With(map[core.ServiceID]*core.Pool{0: poolOf(cfg.Services[0])}),
	}
	p.worker = datapath.NewWorker(datapath.Config{
		Snapshot: func() *core.Snapshot { return snapshot }, Scheduler: func(*core.Service) datapath.Scheduler { return p.sched },
		Sender: p.sender, Errors: raw, Flows: cfg.Datapath.Flows,
		FlowQueue: func(*core.FlowKey) int { return 0 }, Counters: counters.New(1),
	})
	p.worker.Connect([]*datapath.Worker{p.worker}, func() {})
	return p, nil
}

// check reports whether the policy picked for every packet and the tunnel took
// all that was picked.
func (p *parts) check() error {
	st := p.sched.Stats()
	picked, sent := st.Picks[core.ByPolicy], p.sender.Packets.Load()
	for by, n := range st.Picks {
		if by != int(core.ByPolicy) && n > 0 {
			return fmt.Errorf("%d flows were decided by %v, not by the policy: %s", n, core.Decision(by), st.LastError)
		}
	}
	if sent != picked {
		return fmt.Errorf("tunnel sent %d of %d packets", sent, picked)
	}
	return nil
}

func (p *parts) close() (err error) {
	for i := len(p.undo) - 1; i >= 0; i-- {
		err = errors.Join(err, p.undo[i]())
	}
	return err
}
