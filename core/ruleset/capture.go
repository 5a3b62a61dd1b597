package ruleset

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/caplance/caplance/core"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Capture is what the balancer's ruleset is made from: packets to the services
// go to its NFQUEUEs.
//
//	prerouting (raw, −300)
//	  daddr in vips                     → vip
//	vip
//	  came in by lo or caplance0        → accepted     (no client's: it would circle)
//	  ICMP echo request, daddr not in echo → drop
//	  fragment                          → by_address   (its ports are not known)
//	  ICMP error                        → by_address   (its flow is not known)
//	  port . proto . daddr in services  → by_flow
//	  daddr in host                     → accepted     (the machine's own)
//	  ICMP echo, neighbour discovery    → accepted
//	  TCP but SYNs                      → accepted     (of connections that there are; else reset)
//	  UDP in answers                    → accepted     (the machine asked)
//	                                    → unclaimed
//	unclaimed     counter, drop
//	by_flow       jhash(saddr, ports)   → queue chain  (one flow, one queue)
//	by_address    jhash(saddr)          → queue chain
//	queue_N       notrack, NFQUEUE N
//	output (raw, −300)
//	  UDP to the tunnel's port          → notrack
//	  daddr in vips                     → notrack      (direct mode: sent on)
//	  UDP, saddr in vips                → into answers, for a time
//
// Connection tracking is kept off: it sees one direction only and would call
// every packet after the SYN invalid.
//
// A Capture is not changed once it is a target's state. Queues == 0 is the
// empty state: Prune removes the tables.
type Capture struct {
	Services   []Service
	Echo       []netip.Addr // VIPs whose echo requests the host answers
	Host       []netip.Addr // VIPs at which the host gets what no service claims
	FirstQueue uint16       // queues [FirstQueue, FirstQueue+Queues)
	Queues     int
	Seed       uint32 // of the hash that spreads flows over the queues; see FlowQueue
	TunnelPort uint16 // packets to it are not tracked
}

// CaptureOf returns what a snapshot wants.
func CaptureOf(s *core.Snapshot) *Capture {
	return &Capture{
		Services: Services(s.Services.List), Echo: echoes(s), Host: hosts(s), FirstQueue: s.Settings.FirstQueue, Queues: s.Settings.Queues,
		Seed: s.Settings.HashSeed, TunnelPort: s.Settings.TunnelPort,
	}
}

// echoes returns the VIPs that answer to pings, each once, in the order of the
// services.
func echoes(s *core.Snapshot) (vips []netip.Addr) {
	listed := map[netip.Addr]bool{}
	for _, svc := range s.Services.List {
		answers := svc.Echo == core.EchoAlways
		if pool := s.Pools.Of(svc.ID); svc.Echo == core.EchoBackends && pool != nil {
			answers = pool.Eligible > 0
		}
		if answers && !listed[svc.VIP] {
			listed[svc.VIP] = true
			vips = append(vips, svc.VIP)
		}
	}
	return vips
}

// hosts returns the VIPs at which the machine is reached itself.
func hosts(s *core.Snapshot) (vips []netip.Addr) {
	if s.VIPs == nil {
		return nil
	}
	for _, v := range s.VIPs.List {
		if v.Host {
			vips = append(vips, v.Addr)
		}
	}
	return vips
}

// Service is what is captured of one protocol of a VIP. Services may overlap.
type Service struct {
	VIP   netip.Addr
	Proto uint8            // core.ProtoTCP, core.ProtoUDP
	Ports []core.PortRange // inclusive
}

// Services returns what is to be captured for the services of a configuration.
func Services(list []*core.Service) []Service {
	var out []Service
	for _, s := range list {
		for _, proto := range s.Protos {
			out = append(out, Service{s.VIP, proto, s.Ports})
		}
	}
	return out
}

// Equal reports whether two states ask for the same.
func (c *Capture) Equal(o *Capture) bool {
	same := func(a, b Service) bool {
		return a.VIP == b.VIP && a.Proto == b.Proto && slices.Equal(a.Ports, b.Ports)
	}
	return slices.Equal(c.Echo, o.Echo) && slices.Equal(c.Host, o.Host) && c.FirstQueue == o.FirstQueue && c.Queues == o.Queues && c.Seed == o.Seed && c.TunnelPort == o.TunnelPort &&
		slices.EqualFunc(c.Services, o.Services, same)
}

// Method names the expression that hands packets to userspace.
type Method string

// The methods, the first tried first. Some kernels are built without
// CONFIG_NFT_QUEUE; iptables' target does the same through nft's compat layer.
const (
	NativeQueue Method = "nft queue"
	XTQueue     Method = "xt NFQUEUE"
)

// Apply installs the ruleset, replacing what is there, and returns the method
// by which packets are queued.
func (c *Capture) Apply() (Method, error) {
	t := NewCapture()
	ctx := context.Background()
	err := t.Add(ctx, nil, c)
	if err == nil {
		err = t.Prune(ctx, nil, c)
	}
	return t.Method(), errors.Join(err, t.Release())
}

// CaptureTarget is the reconcile.Target of a Capture.
type CaptureTarget struct {
	tables tables
	method atomic.Value // Method; none before the first Add that succeeded

	counting sync.Mutex
	counted  [2]counted // by family, guarded by counting
}

// NewCapture returns the target for the tables of this network namespace. All
// calls must come from threads in it.
func NewCapture() *CaptureTarget { return &CaptureTarget{tables: tables{name: Table}} }

// String implements reconcile.Target.
func (t *CaptureTarget) String() string { return "ruleset" }

// Method returns the method by which packets are queued, "" before the first
// Add that has succeeded.
func (t *CaptureTarget) Method() Method {
	m, _ := t.method.Load().(Method)
	return m
}

// Add implements reconcile.Target.
func (t *CaptureTarget) Add(_ context.Context, was, want *Capture) error {
	if was == nil {
		t.tables.forget()
	}
	if want.Queues == 0 {
		return nil
	}
	if m := t.Method(); m != "" {
		return t.tables.add(want.plans(m))
	}
	return t.probe(want)
}

// probe tries the methods in turn.
func (t *CaptureTarget) probe(want *Capture) error {
	err := t.tables.add(want.plans(NativeQueue))
	if err == nil {
		t.method.Store(NativeQueue)
		return nil
	}
	if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	if xtErr := t.tables.add(want.plans(XTQueue)); xtErr != nil {
		return fmt.Errorf("nftables: neither nft_queue (%w) nor xt_NFQUEUE behind nft_compat (%w) is there: load one of the modules", err, xtErr)
	}
	t.method.Store(XTQueue)
	return nil
}

// Prune implements reconcile.Target.
func (t *CaptureTarget) Prune(_ context.Context, was, want *Capture) error {
	if was == nil {
		t.tables.forget()
	}
	if want.Queues == 0 {
		return t.tables.remove()
	}
	return t.tables.prune(want.plans(t.Method()))
}

// Counted adds to a map by name how many packets were dropped that were to a VIP and
// neither to a service nor to the machine. A table that somebody took away, and that was
// made anew, has forgotten those since the last call. It may be called concurrently with
// the other methods.
func (t *CaptureTarget) Counted(m map[string]uint64) {
	t.counting.Lock()
	defer t.counting.Unlock()
	for i, f := range families {
		if n, ok := t.unclaimed(f.table); ok {
			t.counted[i].see(n)
		}
		m["vip_unclaimed"] += t.counted[i].before + t.counted[i].last
	}
}

// counted is a counter of the kernel's that may begin anew.
type counted struct{ before, last uint64 }

func (c *counted) see(n uint64) {
	if n < c.last {
		c.before += c.last
	}
	c.last = n
}

// unclaimed returns what a family's table has counted; ok is false where there is none.
func (t *CaptureTarget) unclaimed(family nftables.TableFamily) (n uint64, ok bool) {
	conn, err := connect()
	if err != nil {
		return 0, false
	}
	table := &nftables.Table{Family: family, Name: t.tables.name}
	rules, err := conn.GetRules(table, &nftables.Chain{Table: table, Name: unclaimedChain})
	if err != nil { // they are not made yet, or removed
		return 0, false
	}
	for _, r := range rules {
		for _, e := range r.Exprs {
			if c, is := e.(*expr.Counter); is {
				n, ok = n+c.Packets, true
			}
		}
	}
	return n, ok
}

// Release leaves the tables to a successor.
func (t *CaptureTarget) Release() error { return t.tables.release() }

// Remove deletes the tables, as the empty state does.
func (t *CaptureTarget) Remove() error { return t.tables.remove() }

// Verify implements reconcile.Target.
func (t *CaptureTarget) Verify(_ context.Context, want *Capture) error {
	if want.Queues == 0 {
		return nil
	}
	return t.tables.verify(want.plans(t.Method()))
}
