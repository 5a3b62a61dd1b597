package host_test

import (
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/host"
)

// What the slow guest does in a pick until its fuel is spent, by the flow's hash.
var slowWays = []string{
	"nothing", "direct calls of the host", "calls of the host by call_indirect", "loads", "loads, each from where the last one says",
	"vector loads", "stores", "short fills", "short copies", "looks into a table",
}

// In every way of spending its fuel a pick ends by it, and none takes more than a
// few ms: calls of the host by call_indirect took 1.8 ms before they were charged
// as direct ones, 0.1 ms.
func TestSlowPicksEnd(t *testing.T) {
	p, err := newRuntime(t).Compile(t.Context(), "slow", testdata(t, "slow.wasm"))
	if err != nil {
		t.Fatal(err)
	}
	took := make([]time.Duration, len(slowWays))
	for way, name := range slowWays[1:] {
		took[way+1] = time.Hour
		for range 5 {
			s, err := p.NewScheduler(t.Context(), host.Config{Workers: 1})
			if err != nil {
				t.Fatal(err)
			}
			s.SetPool(poolOf(5))
			began := time.Now()
			pickHash(s, uint64(way+1))
			took[way+1] = min(took[way+1], time.Since(began))
			if st := settled(s); st.Causes[host.CauseFuel] != 1 {
				t.Errorf("%s: failure %q, want one for want of fuel", name, st.LastError)
			}
			s.Close()
		}
		t.Logf("%s: %v", name, took[way+1])
	}
	if took[2] > 4*took[1] {
		t.Errorf("%s take %v until the fuel is spent, %s %v", slowWays[2], took[2], slowWays[1], took[1])
	}
}

// manual is a pair of clocks that advance by this much between two looks.
type manual struct{ wall, thread time.Duration }

func (m manual) clocks() *host.Clocks {
	tick := func(step time.Duration) func() time.Duration {
		now := time.Duration(0)
		return func() time.Duration { now += step; return now }
	}
	return &host.Clocks{Wall: tick(m.wall), Thread: tick(m.thread)}
}

// A policy whose picks are slow by the clock fails, though it has the fuel for
// them; one that was only interrupted does not.
func TestSlowPicksAreFailures(t *testing.T) {
	const picks = 20_000
	limit := time.Duration(2.5 * float64(host.DefaultLimits().PickFuel))
	for _, tt := range []struct {
		name   string
		clocks *host.Clocks
		most   int // picks until it fails, 0: it does not
	}{
		{"slow", manual{2 * limit, 2 * limit}.clocks(), 4},
		{"interrupted", manual{2 * limit, limit / 2}.clocks(), 0},
		{"quick", manual{limit / 2, 0}.clocks(), 0},
		{"quick in real time", host.RealClocks(), 0},
		{"nobody watches", nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newScheduler(t, testdata(t, "modulo.wasm"), host.Config{Clocks: tt.clocks})
			s.SetPool(poolOf(5))
			failed := 0
			for n := 1; n <= picks && failed == 0; n++ {
				if i, by := pickHash(s, uint64(n)); i < 0 {
					t.Fatalf("pick %d has no backend", n)
				} else if by != core.ByPolicy {
					failed = n
				}
			}
			if failed != tt.most {
				t.Fatalf("pick %d of %d fails, want %d (0 is none)", failed, picks, tt.most)
			}
			if tt.most == 0 {
				return
			}
			if st := settled(s); st.Causes[host.CauseTime] != 1 || !strings.Contains(st.LastError, "raise pick_fuel") {
				t.Errorf("failure %q is counted as %v, want 1 under %s", st.LastError, st.Causes, host.CauseTime)
			}
		})
	}
}

// A policy cannot know which picks are timed: no gap between them is more often
// than others.
func TestTimedPicksAreDrawn(t *testing.T) {
	pick, last, gaps := 0, 0, map[int]int{}
	clocks := manual{1, 1}.clocks()
	wall := clocks.Wall
	clocks.Wall = func() time.Duration {
		if pick != last {
			gaps[pick-last]++
			last = pick
		}
		return wall()
	}
	s := newScheduler(t, testdata(t, "modulo.wasm"), host.Config{Clocks: clocks})
	s.SetPool(poolOf(5))
	const picks = 1_000_000
	for pick = 1; pick <= picks; pick++ {
		pickHash(s, 1)
	}
	for gap := 1; gap < 256; gap++ {
		if n := gaps[gap]; n < 5 || n > 80 { // 31 is the mean
			t.Errorf("%d gaps of %d picks, want about 31", n, gap)
		}
	}
	if len(gaps) != 255 {
		t.Errorf("%d different gaps, want 1 to 255", len(gaps))
	}
}
