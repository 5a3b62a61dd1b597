package counters

import (
	"slices"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
)

// Every worker counts for itself; the sums are of the membership that a handle
// names, not of an earlier one in its slot.
func TestTotals(t *testing.T) {
	s := New(2)
	h, later := core.NewHandle(2000, 1), core.NewHandle(2000, 2)
	for i := range 2 {
		w := s.Worker(i)
		w.Packet(h, 99) // not open yet
		w.Open(h)
		w.Began(h)
		w.Began(h)
		w.Packet(h, 100)
	}
	s.Worker(0).Ended(h)
	s.Kernel(&core.Service{Name: "web"}, h, Done{10, 1000, 3, 2})
	if got, want := s.Total(h), (Total{Active: 3, Flows: 9, Packets: 12, Bytes: 1200}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := s.Total(later); got != (Total{}) {
		t.Errorf("a later membership has %+v", got)
	}
	s.Worker(0).Open(later)
	s.Worker(0).Open(later)
	s.Worker(0).Ended(h)
	if got := s.Total(later); got != (Total{}) {
		t.Errorf("a membership begins with %+v", got)
	}
}

// A flow that is offloaded counts once, whether a collection saw it or not.
func TestOffloaded(t *testing.T) {
	s, h := New(1), core.NewHandle(0, 1)
	w := s.Worker(0)
	w.Open(h)
	for range 3 {
		w.Began(h)
		w.Offloaded(h)
	}
	if got := s.Total(h).Active; got != 3 {
		t.Errorf("%d flows before a collection", got)
	}
	before := s.Offloaded(h)
	w.Began(h)
	w.Offloaded(h)
	s.Collected(h, 2, 0, before) // one of three has ended, the fourth was not seen
	if got := s.Total(h).Active; got != 3 {
		t.Errorf("%d flows, want 3", got)
	}
}

func TestCountingAllocatesNothing(t *testing.T) {
	s, h := New(1), core.NewHandle(5, 1)
	w := s.Worker(0)
	w.Open(h)
	if n := testing.AllocsPerRun(100, func() {
		w.Open(h)
		w.Began(h)
		w.Packet(h, 100)
		w.Ended(h)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPacket(b *testing.B) {
	w, h := New(1).Worker(0), core.NewHandle(5, 1)
	w.Open(h)
	for b.Loop() {
		w.Packet(h, 100)
	}
}

// What the kernel placed for a service stays counted when a backend leaves and another
// gets its slot, and when the fast path begins anew.
func TestPlacementsOutliveBackends(t *testing.T) {
	s, svc := New(1), &core.Service{ID: 3, Name: "web"}
	placed := func() [2]uint64 {
		t := s.Service(svc)
		return [2]uint64{t.ByTable, t.ByFallback}
	}
	for i, step := range []struct {
		h    core.Handle
		done Done
		want [2]uint64
	}{
		{core.NewHandle(1, 1), Done{ByTable: 10, ByFallback: 1}, [2]uint64{10, 1}},
		{core.NewHandle(1, 1), Done{ByTable: 15, ByFallback: 3}, [2]uint64{15, 3}},
		{core.NewHandle(1, 2), Done{ByTable: 2, ByFallback: 0}, [2]uint64{17, 3}},
		{core.NewHandle(1, 2), Done{ByTable: 2, ByFallback: 4}, [2]uint64{17, 7}},
	} {
		s.Kernel(svc, step.h, step.done)
		if got := placed(); got != step.want {
			t.Errorf("step %d: %v, want %v", i, got, step.want)
		}
	}
	s.KernelGone()
	s.Kernel(svc, core.NewHandle(1, 2), Done{ByTable: 1, ByFallback: 1})
	if got := placed(); got != [2]uint64{18, 8} {
		t.Errorf("with another fast path: %v", got)
	}
	if got := s.Service(&core.Service{ID: 3, Name: "other"}); got.ByTable != 0 {
		t.Errorf("another service with the ID has %+v", got)
	}
}

func TestHistogram(t *testing.T) {
	h := Histogram{Bounds: []time.Duration{10, 100}}
	var d Distribution
	d.Add(&h)
	for _, n := range []time.Duration{10, 11, 100, 101, 5} {
		h.Observe(n)
	}
	d.Add(&h)
	if want := (Distribution{h.Bounds, []uint64{2, 4}, 5, 227}); !slices.Equal(d.Counts, want.Counts) || d.Count != want.Count || d.Sum != want.Sum {
		t.Errorf("%+v, want %+v", d, want)
	}
	if n := testing.AllocsPerRun(100, func() { h.Observe(50) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if len(PickBounds) > MaxBounds {
		t.Errorf("%d bounds, room for %d", len(PickBounds), MaxBounds)
	}
}
