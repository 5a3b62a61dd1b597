package host_test

import (
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/host"
)

// A recorder has every pick and every end in their order, costs nothing while
// there is none, and counts what it has no room for.
func TestRecorder(t *testing.T) {
	s, pool := newScheduler(t, testdata(t, "modulo.wasm"), host.Config{}), poolOf(3)
	s.SetPool(pool)
	var f core.NewFlow
	s.Pick(&f) // nobody records yet
	r := host.NewRecorder()
	s.SetRecorder(r)
	var picks []int
	for i := range 10 {
		f = core.NewFlow{Hash: uint64(i)}
		index, _ := s.Pick(&f)
		picks = append(picks, index)
	}
	s.Ended(&core.FlowEnd{Backend: pool.Members[1].Handle, Packets: 7})
	n := 0
	lost := r.Take(func(seen *host.Seen) {
		switch {
		case n < 10 && (seen.Ended || seen.Flow.Hash != uint64(n) || seen.Index != picks[n] || seen.By != core.ByPolicy || seen.Pool != pool):
			t.Errorf("entry %d: %+v", n, seen)
		case n == 10 && (!seen.Ended || seen.End.Packets != 7):
			t.Errorf("end: %+v", seen)
		}
		n++
	})
	if n != 11 || lost != 0 {
		t.Errorf("%d entries, %d lost", n, lost)
	}
	const many = 20_000
	for range many {
		s.Pick(&f)
	}
	n = 0
	if lost := r.Take(func(*host.Seen) { n++ }); lost == 0 || uint64(n)+lost != many {
		t.Errorf("%d entries, %d lost of %d", n, lost, many)
	}
	if n := testing.AllocsPerRun(100, func() { s.Pick(&f); r.Take(func(*host.Seen) {}) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	s.SetRecorder(nil)
	s.Pick(&f)
	r.Take(func(*host.Seen) { t.Error("recorded after the end") })
}
