package counters

import (
	"testing"

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
	s.Kernel(h, 10, 1000, 5)
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
