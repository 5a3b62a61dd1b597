package datapath

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/packet"
	"github.com/caplance/caplance/core/packet/packettest"
)

// A bucket gives its burst at once and then its rate, however long nobody came before.
func TestLimiter(t *testing.T) {
	l := NewLimiter(1)
	a, b := source{1, 0, 7}, source{1, 0, 8}
	take := func(s source, n int, at time.Duration) (took int) {
		for range n {
			if l.Take(s, 100, 100, at) {
				took++
			}
		}
		return took
	}
	for _, tt := range []struct {
		name  string
		of    source
		after time.Duration
		want  int
	}{
		{"the burst", a, 0, 100},
		{"nothing more", a, 0, 0},
		{"another source", b, 0, 100},
		{"half a second's", a, 500 * time.Millisecond, 50},
		{"again", a, 510 * time.Millisecond, 1},
		{"after a pause no more than the burst", a, time.Minute, 100},
		{"after six days", a, 6 * 24 * time.Hour, 100},
		{"after as many more, when the clock has gone around", a, 13 * 24 * time.Hour, 100},
		{"of the source that was silent for as long", b, 7 * 24 * time.Hour, 100},
	} {
		if got := take(tt.of, 1000, tt.after); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

// Many sources that come once cost no source that comes often its limit, but for those
// whose slots are all taken.
func TestLimiterIsBounded(t *testing.T) {
	l := NewLimiter(2)
	busy, took := source{1, 0, 1 << 40}, 0
	for i := range uint64(100_000) {
		l.Take(source{1, 0, i}, 100, 100, time.Duration(i)*time.Microsecond)
		if l.Take(busy, 100, 100, time.Duration(i)*time.Microsecond) {
			took++
		}
	}
	if took > 111 { // the burst, and what comes in 0.1 s
		t.Errorf("%d of the busy source's flows began", took)
	}
}

func TestSourceOf(t *testing.T) {
	s := &core.Service{ID: 3, SourcePrefix4: 24, SourcePrefix6: 56}
	for a, b := range map[string]string{"192.0.2.1": "192.0.2.255", "2001:db8:0:1::": "2001:db8:0:ff::7"} {
		x, y := netip.MustParseAddr(a).As16(), netip.MustParseAddr(b).As16()
		if sourceOf(s, &x) != sourceOf(s, &y) {
			t.Errorf("%s and %s are two sources", a, b)
		}
	}
	for a, b := range map[string]string{"192.0.2.1": "192.0.3.1", "2001:db8::": "2001:db8:0:100::", "::1": "0.0.0.1"} {
		x, y := netip.MustParseAddr(a).As16(), netip.MustParseAddr(b).As16()
		if sourceOf(s, &x) == sourceOf(s, &y) {
			t.Errorf("%s and %s are one source", a, b)
		}
	}
	for _, bits := range []int{1, 63, 64, 65, 128} {
		s.SourcePrefix6 = bits
		a := netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
		p := netip.PrefixFrom(a, bits).Masked().Addr().As16()
		x := a.As16()
		s128 := &core.Service{ID: 3, SourcePrefix6: 128}
		if sourceOf(s, &x) != sourceOf(s128, &p) {
			t.Errorf("%d bits: %x", bits, sourceOf(s, &x))
		}
	}
}

// Over its limit a source begins nothing, whichever worker asks, and its flows go on.
func TestLimitedFlows(t *testing.T) {
	r := newRig(t, 2)
	r.setBackends(2, nil, nil)
	r.change(func(s *core.Snapshot) {
		settings := *s.Settings
		settings.Type = core.Userspace
		s.Settings = &settings
	})
	r.configure(func(s *core.Service) { s.NewFlows, s.SourcePrefix4, s.SourcePrefix6 = 10, 32, 64 })
	limiter := r.workers[0].Limiter
	r.workers[1].Limiter = limiter
	limiter.epoch = limiter.epoch.Add(-time.Hour)
	passed := 0
	for n := range 100 {
		if len(r.give(n%2, syn(n))) == 1 {
			passed++
		}
	}
	if passed < 10 || passed > 15 {
		t.Errorf("%d flows began, want 10", passed)
	}
	if out := r.give(0, ack(0)); len(out) != 1 {
		t.Error("an established flow of the source is dropped")
	}
	if limited := r.counters.Service(r.services[0]).Limited; limited != uint64(100-passed) || r.count(Limited) != limited {
		t.Errorf("%d and %d counted, want %d", limited, r.count(Limited), 100-passed)
	}
	other := netip.MustParseAddrPort("203.0.113.9:4711")
	if out := r.give(0, packettest.TCP(other, vip4, packet.SYN, nil)); len(out) != 1 {
		t.Error("another source's flow is dropped")
	}
}

func TestLimiterDoesNotAllocate(t *testing.T) {
	l := NewLimiter(1)
	if n := testing.AllocsPerRun(100, func() { l.Take(source{1, 2, 3}, 100, 100, 0) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkLimiter measures what a new flow pays: of one source, and of many.
func BenchmarkLimiter(b *testing.B) {
	for name, mask := range map[string]uint64{"one source": 0, "65 536 sources": 1<<16 - 1} {
		b.Run(name, func(b *testing.B) {
			l, r := NewLimiter(1), rand.New(rand.NewPCG(1, 2))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				l.Take(source{1, 0, r.Uint64() & mask}, 1_000_000, 1_000_000, time.Duration(i)*time.Microsecond)
			}
		})
	}
}
