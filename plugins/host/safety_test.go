package host_test

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/policies"
)

// What the hostile guest does in a pick, by the flow's hash.
const (
	hostileBehave = iota
	hostileSpin
	hostileDive
	hostileHog
	hostileGrow
	hostileTable
	hostileRandom
	hostileWrite
	hostilePath
	hostileExit
	hostileThird
	hostileNaN
	hostileNaN64
)

// slow is far more than any call of a guest takes on a busy machine under the
// race detector: what is limited takes 0.2 ms, what is not takes for ever.
const slow = 2 * time.Second

// hostile returns a scheduler of the hostile guest for five backends.
func hostile(t testing.TB) *host.Scheduler {
	s := newScheduler(t, testdata(t, "hostile.wasm"), host.Config{})
	s.SetPool(poolOf(5))
	return s
}

// inTime fails the test if what takes long; it says how long it took.
func inTime(t *testing.T, name string, what func()) {
	t.Helper()
	began := time.Now()
	what()
	took := time.Since(began)
	t.Logf("%s took %v", name, took)
	if took > slow {
		t.Errorf("%s took %v, want less than %v", name, took, slow)
	}
}

// settled waits until a failure has been counted, which is done off the path.
func settled(s *host.Scheduler) host.Stats {
	for {
		if st := s.Stats(); st.Failures > 0 {
			return st
		}
		runtime.Gosched()
	}
}

// Whatever a guest does in a pick, the pick ends soon, someone is picked, and
// so for the flows after it.
func TestHostilePicks(t *testing.T) {
	tests := []struct {
		name  string
		hash  uint64
		cause host.Cause
	}{
		{"endless loop", hostileSpin, host.CauseFuel},
		{"deep recursion", hostileDive, host.CauseDepth},
		{"memory hog", hostileHog, host.CauseFuel},
		{"table of a billion", hostileTable, host.CauseFuel},
		{"random numbers", hostileRandom, host.CauseFuel},
		{"8 000 buffers to write", hostileWrite, host.CauseFuel},
		{"path of 16 MB", hostilePath, host.CauseFuel},
		{"exit", hostileExit, host.CauseExit},
		{"NaN as an index", hostileNaN, host.CauseAnswer},
		{"NaN with an index in it", hostileNaN64, host.CauseAnswer},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := hostile(t)
			inTime(t, "pick", func() {
				if i, by := pickHash(s, tt.hash); i < 0 || by != core.ByFallback {
					t.Errorf("pick is %d by %s, want one by fallback", i, by)
				}
			})
			if i, by := pickHash(s, hostileBehave); i < 0 || by != core.ByFallback {
				t.Errorf("pick afterwards is %d by %s, want one by fallback", i, by)
			}
			if st := settled(s); st.Causes[tt.cause] != 1 {
				t.Errorf("failure %q is counted as %v, want 1 under %s", st.LastError, st.Causes, tt.cause)
			}
		})
	}
}

// So it is with the other calls, whose budget is larger.
func TestHostileCalls(t *testing.T) {
	for name, call := range map[string]func(*host.Scheduler){
		"endless loop in backends":   func(s *host.Scheduler) { s.SetPool(poolOf(13)) },
		"deep recursion in backends": func(s *host.Scheduler) { s.SetPool(poolOf(14)) },
		"memory hog in backends":     func(s *host.Scheduler) { s.SetPool(poolOf(15)) },
		"endless loop at a flow end": func(s *host.Scheduler) { s.Ended(&core.FlowEnd{}) },
		"endless loop in a tick":     func(s *host.Scheduler) { s.Tick(1) },
	} {
		t.Run(name, func(t *testing.T) {
			s := hostile(t)
			inTime(t, "call", func() { call(s) })
			if i, by := pickHash(s, hostileBehave); i < 0 || by != core.ByFallback {
				t.Errorf("pick afterwards is %d by %s, want one by fallback", i, by)
			}
		})
	}
}

// A trap on every third pick costs those picks and the pauses after them; in
// the end the policy is in quarantine, and still someone is picked.
func TestTrapOnEveryThirdPick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := hostile(t)
		var count [core.Decisions]int
		for range 30 {
			i, by := pickHash(s, hostileThird)
			if i < 0 {
				t.Fatalf("pick is %d by %s", i, by)
			}
			count[by]++
			time.Sleep(backOver) // of the bubble
			synctest.Wait()
		}
		if st := s.Stats(); !st.Quarantined || count[core.ByPolicy] != 12 || st.Causes[host.CauseTrap] != 6 {
			t.Errorf("picks are %v, stats %+v; want 12 by policy, 6 traps and quarantine", count, st)
		}
	})
}

// Fuel is per call: a guest that behaves does not run dry.
func TestFuelIsPerCall(t *testing.T) {
	s := hostile(t)
	for range 100_000 {
		if _, by := pickHash(s, hostileBehave); by != core.ByPolicy {
			t.Fatalf("pick is by %s, want by policy: %s", by, s.Stats().LastError)
		}
	}
}

// The garbage collector waits for machine code of a guest; it must not wait
// long for one that loops.
func TestHostilePickDoesNotStallGC(t *testing.T) {
	const most = 100 * time.Millisecond
	policy, err := newRuntime(t).Compile(t.Context(), "hostile", testdata(t, "hostile.wasm"))
	if err != nil {
		t.Fatal(err)
	}
	during := func(hash uint64) time.Duration {
		var guests []*host.Scheduler // new ones: who spun once is not asked again soon
		for range 20 {
			s, err := policy.NewScheduler(t.Context(), host.Config{Workers: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			s.SetPool(poolOf(5))
			guests = append(guests, s)
		}
		longest := longestGC(func() {
			for _, s := range guests {
				pickHash(s, hash)
			}
		})
		if hash == hostileSpin {
			settled(guests[0])
		} else if st := guests[0].Stats(); st.Failures > 0 {
			t.Errorf("%d failures: %s", st.Failures, st.LastError)
		}
		return longest
	}
	// Other tests and machines make any one collection slow; the guests would
	// make all of them so.
	quiet, worst := during(hostileBehave), during(hostileSpin)
	for range 2 {
		worst = min(worst, during(hostileSpin))
	}
	t.Logf("longest garbage collection: %v, and %v while guests behave", worst, quiet)
	if worst > most+quiet {
		t.Errorf("a garbage collection took %v, want less than %v", worst, most+quiet)
	}
}

// longestGC collects garbage while do runs, at least once.
func longestGC(do func()) (longest time.Duration) {
	var done atomic.Bool
	go func() {
		do()
		done.Store(true)
	}()
	for first := true; first || !done.Load(); first = false {
		began := time.Now()
		runtime.GC()
		longest = max(longest, time.Since(began))
	}
	for !done.Load() {
		runtime.Gosched()
	}
	return longest
}

// Damaged copies of a bundled policy are refused or run; they never panic, and
// what runs picks someone in time.
func TestDamagedModules(t *testing.T) {
	_, wasm, err := policies.Load("hash")
	if err != nil {
		t.Fatal(err)
	}
	r := newRuntime(t)
	try := func(wasm []byte) (ran bool) {
		ctx := context.Background()
		p, err := r.Compile(ctx, "damaged", wasm)
		if err != nil {
			return false
		}
		defer p.Close(ctx)
		s, err := p.NewScheduler(ctx, host.Config{Workers: 1})
		if err != nil {
			return false
		}
		defer s.Close()
		began := time.Now()
		s.SetPool(poolOf(5))
		for k := range uint64(20) {
			f := flowOf(k)
			if i, by := s.Pick(&f); i < 0 && by != core.ByReject {
				t.Errorf("pick is %d by %s", i, by)
			}
		}
		if took := time.Since(began); took > slow {
			t.Errorf("pool and 20 picks took %v", took)
		}
		return true
	}
	ran := 0
	for n := range wasm {
		if try(wasm[:n]) {
			ran++
		}
	}
	t.Logf("%d truncated modules, %d of them ran", len(wasm), ran)
	rng := rand.New(rand.NewPCG(1, 2))
	const flips = 300
	ran = 0
	for range flips {
		at, bit := rng.IntN(len(wasm)), byte(1)<<rng.IntN(8)
		wasm[at] ^= bit
		if try(wasm) {
			ran++
		}
		wasm[at] ^= bit
	}
	t.Logf("%d modules with a bit flipped, %d of them ran", flips, ran)
}
