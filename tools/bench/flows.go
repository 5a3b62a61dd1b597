package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/ruleset"
	"github.com/caplance/caplance/core/verdict"
	"github.com/caplance/caplance/e2e/cluster"
	"github.com/caplance/caplance/e2e/topology"
	"github.com/vishvananda/netlink"
)

// benchFlows is the price of a new flow: our verdict loop with the round-robin
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
		{"go-nfqueue callback, constant drop", r.plain, dropAll{}},
		{"go-nfqueue callback, policy, flow table, tunnel", r.plain, r.parts.worker},
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

// startProfile profiles one round of ours, in the middle: all is warm then.
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
type dropAll struct{}

func (dropAll) Packet([]byte, uint32) verdict.Verdict { return verdict.Drop }
func (dropAll) Flush()                                {}
func (dropAll) Tick(time.Time)                        {}

// flowRig is the network, the rule and our worker.
type flowRig struct {
	net     *topology.Net
	lb      *topology.Host
	cfg     *config.Server
	flood   *flood
	parts   *parts
	offered float64 // by the last flood, 1/s
}

const flowConfig = `
[[service]]
name = "flood"
vip = "192.0.2.1"
protocol = "udp"
ports = [53]
policy = "round-robin"
`

func newFlowRig(ctx context.Context) (_ *flowRig, err error) {
	r := &flowRig{}
	if r.cfg, err = config.ParseServer("bench", []byte(flowConfig)); err != nil {
		return nil, err
	}
	if r.net, err = topology.New("bench"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	sender, err := r.net.Switch("sender")
	if err != nil {
		return nil, err
	}
	if r.lb, err = r.net.Host("lb"); err != nil {
		return nil, err
	}
	if err := sender.Attach(r.lb, "eth0"); err != nil {
		return nil, err
	}
	svc := r.cfg.Services[0]
	var mac net.HardwareAddr
	if err := r.lb.Do(func() (err error) {
		capture := &ruleset.Capture{Services: r.cfg.Services, FirstQueue: r.cfg.Datapath.FirstQueue, Queues: 1, TunnelPort: r.cfg.Datapath.TunnelPort}
		if _, err = capture.Apply(); err != nil {
			return err
		}
		if mac, err = links(); err != nil {
			return err
		}
		r.parts, err = newParts(ctx, r.cfg)
		return err
	}); err != nil {
		return nil, err
	}
	// The switch's end of the link to the balancer.
	r.flood, err = openFlood(sender.Host, "port0", mac, netip.AddrPortFrom(svc.VIP, svc.Ports[0].First))
	return r, err
}

// links adds the way to the backends and returns the link address of eth0. A
// bridge without ports swallows what is sent; every kernel that has veths has
// it, unlike the dummy device.
func links() (net.HardwareAddr, error) {
	out := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	if err := netlink.LinkAdd(out); err != nil {
		return nil, fmt.Errorf("link to the backends: %w", err)
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 78, 0, 254), Mask: net.CIDRMask(24, 32)}}
	if err := errors.Join(netlink.LinkSetARPOff(out), netlink.AddrAdd(out, addr), netlink.LinkSetUp(out)); err != nil {
		return nil, fmt.Errorf("link to the backends: %w", err)
	}
	in, err := netlink.LinkByName("eth0")
	if err != nil {
		return nil, fmt.Errorf("link to the sender: %w", err)
	}
	return in.Attrs().HardwareAddr, nil
}

// queueLength holds all that a drain works off.
const queueLength = 1 << 15

func (r *flowRig) queue() verdict.Config {
	return verdict.Config{Queue: r.cfg.Datapath.FirstQueue, Length: queueLength, Buffer: 128 << 20, Tick: 20 * time.Millisecond}
}

// plain shows the packets to h by go-nfqueue's callback.
func (r *flowRig) plain(h verdict.Handler) (stop func() error, err error) {
	return stop, r.lb.Do(func() error {
		p, err := verdict.OpenPlain(r.queue(), h)
		if err == nil {
			stop = p.Close
		}
		return err
	})
}

// loop does so by our verdict loop.
func (r *flowRig) loop(h verdict.Handler) (stop func() error, err error) {
	var q *verdict.Queue
	if err := r.lb.Do(func() (err error) {
		q, err = verdict.Open(r.queue())
		return err
	}); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- verdict.NewLoop(q, h).Run(ctx) }()
	return func() error {
		cancel()
		return errors.Join(<-done, q.Close())
	}, nil
}

// gate counts the packets of a handler, and holds the first one up until it
// is opened.
type gate struct {
	verdict.Handler
	open    chan struct{}
	packets atomic.Uint64
}

func newGate(h verdict.Handler) *gate { return &gate{Handler: h, open: make(chan struct{})} }

func (g *gate) Packet(b []byte, mark uint32) verdict.Verdict {
	<-g.open
	g.packets.Add(1)
	return g.Handler.Packet(b, mark)
}

const (
	warmUp = 300 * time.Millisecond
	window = time.Second
)

// underFlood is how many packets a system answers while more come than it can
// take, per second.
func (r *flowRig) underFlood(ctx context.Context, open func(verdict.Handler) (func() error, error), h verdict.Handler) (float64, error) {
	g := newGate(h)
	close(g.open)
	stop, err := open(g)
	if err != nil {
		return 0, err
	}
	stopFlood := r.flood.start()
	pause(ctx, warmUp)
	packets, sent, begin := g.packets.Load(), r.flood.sent.Load(), time.Now()
	pause(ctx, window)
	packets, sent = g.packets.Load()-packets, r.flood.sent.Load()-sent
	seconds := time.Since(begin).Seconds()
	stopFlood()
	r.offered = float64(sent) / seconds
	return float64(packets) / seconds, errors.Join(stop(), ctx.Err())
}

// drain is how fast a system works off a full queue, packets per second.
func (r *flowRig) drain(ctx context.Context, open func(verdict.Handler) (func() error, error), h verdict.Handler) (float64, error) {
	g := newGate(h)
	stop, err := open(g)
	if err != nil {
		return 0, err
	}
	packets := r.flood.sent.Load()
	for range queueLength/len(r.flood.buf) - 1 {
		r.flood.batch()
	}
	packets = r.flood.sent.Load() - packets
	begin := time.Now()
	close(g.open)
	err = cluster.Await(ctx, "the queue to be empty", func() error {
		if n := g.packets.Load(); n < packets {
			return fmt.Errorf("%d of %d packets came up", n, packets)
		}
		return nil
	})
	return float64(packets) / time.Since(begin).Seconds(), errors.Join(err, stop())
}

// pause lets the measurement run for a while.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (r *flowRig) close() (err error) {
	if r.flood != nil {
		err = r.flood.close()
	}
	if r.parts != nil {
		err = errors.Join(err, r.parts.close())
	}
	return errors.Join(err, r.net.Close())
}
