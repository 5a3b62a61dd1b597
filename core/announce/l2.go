// Package announce tells the network where the VIPs are. Its target L2 tells
// the neighbours on a link, so that those who knew a VIP elsewhere learn at
// once: by ARP announcements (RFC 5227, section 2.3) for IPv4, by unsolicited
// neighbor advertisements (RFC 4861, section 7.2.6) for IPv6.
//
//	l2 := announce.New(announce.Config{Log: log})
//	go l2.Run(ctx)
//	err := l2.Add(ctx, nil, &announce.State{{VIP: vip, Link: "eth0", Index: 2, MAC: mac, Up: true}})
package announce

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caplance/caplance/core"
)

// Count and interval of the announcements of one VIP: ANNOUNCE_NUM of RFC 5227
// section 1.1 is 2, MAX_NEIGHBOR_ADVERTISEMENT of RFC 4861 section 10 is 3; the
// intervals of both are less than this.
const (
	DefaultCount    = 3
	DefaultInterval = time.Second
)

// MAC is an Ethernet address.
type MAC [6]byte

// VIP is an address and the link that it is on.
type VIP struct {
	VIP   netip.Addr
	Link  string // its name, for logs
	Index int
	MAC   MAC  // of the link; zero: there is nobody to tell (lo, tunnels)
	Up    bool // the link carries packets
	Epoch uint64
}

// key is what an announcement depends on: a VIP is announced again when any of
// it has changed.
type key struct {
	vip   netip.Addr
	index int
	mac   MAC
	up    bool
	epoch uint64
}

func (v *VIP) key() key { return key{v.VIP.Unmap(), v.Index, v.MAC, v.Up, v.Epoch} }

// State is the VIPs to be announced. It is not changed once it is a target's.
type State []VIP

// VIPsOf returns the VIPs of a snapshot, which neighbours are to know.
func VIPsOf(s *core.Snapshot) *State {
	out, withdrawn := State{}, s.Withdrawn()
	for _, v := range s.VIPs.List {
		if withdrawn[v.Addr] != nil {
			continue
		}
		out = append(out, VIP{
			VIP: v.Addr, Link: v.Link.Name, Index: v.Link.Index, MAC: MAC(v.Link.MAC), Up: v.Link.Up, Epoch: v.Link.Epoch,
		})
	}
	return &out
}

// Equal reports whether two states ask for the same.
func (s *State) Equal(o *State) bool { return slices.Equal(*s, *o) }

// Config is what an L2 is made from.
type Config struct {
	Count    int           // announcements of each VIP; 0: DefaultCount
	Interval time.Duration // between them; 0: DefaultInterval
	Log      *slog.Logger  // nil: no logging
}

// L2 is the reconcile.Target of a State. Run sends; the other methods never
// block.
type L2 struct {
	cfg  Config
	open func() sender // for one round
	wake chan struct{}

	mu    sync.Mutex
	known map[key]*pending

	Sent   atomic.Uint64 // announcements
	Failed atomic.Uint64
}

// sender makes announcements.
type sender interface {
	Send(v *VIP) error
	Close()
}

// pending is a VIP with the announcements that are left.
type pending struct {
	vip  VIP
	left int
	at   time.Time // of the next
}

// New returns a target that knows no VIP yet.
func New(cfg Config) *L2 {
	if cfg.Count <= 0 {
		cfg.Count = DefaultCount
	}
	if cfg.Interval <= 0 {
		cfg.Interval = DefaultInterval
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &L2{cfg: cfg, open: func() sender { return new(sockets) }, wake: make(chan struct{}, 1), known: map[key]*pending{}}
}

// String implements reconcile.Target.
func (l *L2) String() string { return "l2" }

// Add implements reconcile.Target: it has Run announce what is new. An unknown
// was changes nothing, for what has been announced is known here.
func (l *L2) Add(_ context.Context, _, want *State) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := make(map[key]*pending, len(*want))
	for _, v := range *want {
		p, ok := l.known[v.key()]
		if !ok {
			p = &pending{vip: v, left: l.cfg.Count, at: time.Now()}
		}
		known[v.key()] = p
	}
	l.known = known
	l.signal()
	return nil
}

// Prune implements reconcile.Target: there is nothing to remove. Who has a VIP
// that is not wanted here any more announces it.
func (l *L2) Prune(context.Context, *State, *State) error { return nil }

// Verify implements reconcile.Target: there is nothing to look at.
func (l *L2) Verify(context.Context, *State) error { return nil }

// Again announces all VIPs once more, from the start.
func (l *L2) Again() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.known {
		p.left, p.at = l.cfg.Count, time.Now()
	}
	l.signal()
}

func (l *L2) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Run sends announcements until ctx ends, which is no error. It must run in the
// network namespace of the links.
func (l *L2) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.wake:
		case <-timer.C:
		}
		if next, ok := l.announce(ctx, time.Now()); ok {
			timer.Reset(time.Until(next))
		}
	}
}

// announce sends what is due and returns when the next is.
func (l *L2) announce(ctx context.Context, now time.Time) (next time.Time, ok bool) {
	due, next, ok := l.due(now)
	s := l.open()
	defer s.Close()
	for i := range due {
		if ctx.Err() != nil {
			break
		}
		if err := s.Send(&due[i]); err != nil {
			l.Failed.Add(1)
			l.cfg.Log.Warn("VIP not announced: neighbours learn of it when they ask", "err", err)
			continue
		}
		l.Sent.Add(1)
	}
	return next, ok
}

// due takes the announcements that are to be sent now.
func (l *L2) due(now time.Time) (out []VIP, next time.Time, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.known {
		if p.left == 0 || !p.vip.Up || p.vip.MAC == (MAC{}) {
			continue
		}
		if !now.Before(p.at) {
			out = append(out, p.vip)
			p.left, p.at = p.left-1, now.Add(l.cfg.Interval)
		}
		if p.left > 0 && (!ok || p.at.Before(next)) {
			next, ok = p.at, true
		}
	}
	return out, next, ok
}

func (v *VIP) wrap(err error) error {
	if err != nil {
		return fmt.Errorf("announce %v on %s: %w", v.VIP, v.Link, err)
	}
	return nil
}
