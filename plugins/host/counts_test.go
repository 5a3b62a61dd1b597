package host

import (
	"testing"
	"time"

	"github.com/caplance/caplance/core"
)

// fleet builds pools of one service for tests of carry.
type fleet struct {
	builder *core.PoolBuilder
	pool    *core.Pool
	counts  []counts
}

func newFleet() *fleet { return &fleet{builder: core.NewPoolBuilder(&core.Service{Name: "web"})} }

func (f *fleet) set(backends ...core.Backend) {
	next := f.builder.Build(backends)
	f.counts = carry(f.pool, f.counts, next)
	f.pool = next
}

// values are the global counters, the same for every kind.
func (f *fleet) values(v ...uint64) {
	for i := range v {
		for k := range f.counts[i] {
			f.counts[i][k].value = v[i]
		}
	}
	settle(f.pool, f.counts)
}

func (f *fleet) shown(kind int) []uint64 {
	var out []uint64
	for i := range f.counts {
		out = append(out, f.counts[i][kind].shown())
	}
	return out
}

func (f *fleet) want(t *testing.T, when string, kind int, want ...uint64) {
	t.Helper()
	got := f.shown(kind)
	for i := range want {
		if len(got) != len(want) || got[i] != want[i] {
			t.Fatalf("%s: counters shown are %v, want %v", when, got, want)
		}
	}
}

func be(name string, weight uint32) core.Backend {
	return core.Backend{Name: name, Weight: weight, Since: time.Unix(1, 0)}
}

func TestNewcomerStartsAtTheMinimumAndKeepsItsOffset(t *testing.T) {
	f := newFleet()
	f.set(be("a", 1), be("b", 1))
	f.values(500, 300)
	f.set(be("a", 1), be("b", 1), be("c", 2))
	f.want(t, "joined", countPackets, 500, 300, 600) // the minimum for weight 2
	f.values(501, 302, 5)
	f.want(t, "refreshed", countPackets, 501, 302, 605)
}

func TestFirstBackendsStartAtZero(t *testing.T) {
	f := newFleet()
	f.set(be("a", 1), be("b", 1))
	f.want(t, "start", countPackets, 0, 0)
}

func TestResumedBackendDoesNotCatchUp(t *testing.T) {
	f := newFleet()
	f.set(be("a", 1), be("b", 1))
	f.values(100, 100)
	paused := be("b", 1)
	paused.State = core.Paused
	f.set(be("a", 1), paused)
	f.values(900, 100)
	f.set(be("a", 1), be("b", 1))
	f.want(t, "resumed", countPackets, 900, 900)
}

func TestReRegisteredBackendIsANewcomer(t *testing.T) {
	f := newFleet()
	f.set(be("a", 1), be("b", 1))
	f.values(100, 200)
	again := be("b", 1)
	again.Since = time.Unix(2, 0)
	f.set(be("a", 1), again)
	f.want(t, "back", countPackets, 100, 100)
}

func TestWeightChangeKeepsTheLevel(t *testing.T) {
	f := newFleet()
	f.set(be("a", 2), be("b", 2))
	f.values(100, 100)
	f.set(be("a", 2), be("b", 6))
	f.want(t, "heavier", countPackets, 100, 300)
	f.set(be("a", 1), be("b", 6))
	f.want(t, "lighter", countPackets, 50, 300)
	f.want(t, "open flows", countActive, 100, 100)
}

func TestOffsetOfOpenFlowsDies(t *testing.T) {
	f := newFleet()
	f.set(be("a", 1), be("b", 1))
	f.values(100, 100)
	f.set(be("a", 1), be("b", 1), be("c", 1))
	f.want(t, "joined", countActive, 100, 100, 100)
	f.values(90, 95, 20)
	f.want(t, "others fell", countActive, 90, 95, 90)
	f.values(99, 99, 50)
	f.want(t, "others rose", countActive, 99, 99, 99)
	f.values(80, 80, 85)
	f.want(t, "level", countActive, 80, 80, 85)
	f.values(100, 100, 10)
	f.want(t, "settled", countActive, 100, 100, 10)
}
