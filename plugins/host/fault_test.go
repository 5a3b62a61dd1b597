package host_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/host"
)

// Hashes below 2³² tell the moody guest what to do; from there on it answers
// with their low half.
const (
	behave   = 1
	trap     = 100
	grow     = 200
	backOver = 10 * time.Second // more than any pause before the quarantine
)

func answer(i int32) uint64 { return 1<<32 | uint64(uint32(i)) }

// pickHash returns a pick of a flow with this hash.
func pickHash(s *host.Scheduler, hash uint64) (int, core.Decision) {
	f := flowOf(0)
	f.Hash = hash
	return s.Pick(&f)
}

func TestPickAnswers(t *testing.T) {
	tests := []struct {
		name   string
		hash   uint64
		by     core.Decision
		failed string // part of Stats.LastError
	}{
		{"index", answer(4), core.ByPolicy, ""},
		{"no choice", answer(-1), core.ByFallback, ""},
		{"reject", answer(-2), core.ByReject, ""},
		{"table, without one", answer(-3), core.ByFallback, ""},
		{"index too large", answer(5), core.ByFallback, "pick answered 5: the eligible backends are 0 to 4"},
		{"index negative", answer(-4), core.ByFallback, "pick answered -4"},
		{"trap", trap, core.ByFallback, "unreachable"},
		{"exit", 101, core.ByFallback, "exit_code(3)"},
		{"abort", 102, core.ByFallback, "abort: oh (?:7:9)"},
		{"out of bounds", 103, core.ByFallback, "out of bounds"},
		{"endless recursion", 104, core.ByFallback, "raise max_depth"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScheduler(t, testdata(t, "moody.wasm"), host.Config{})
				pool := poolOf(5)
				s.SetPool(pool)
				i, by := pickHash(s, tt.hash)
				want := map[core.Decision]int{
					core.ByPolicy: int(uint32(tt.hash)), core.ByReject: -1,
					core.ByFallback: int(pool.Lookup.At(tt.hash)),
				}[by]
				if i != want || by != tt.by {
					t.Errorf("pick is %d by %s, want %d by %s", i, by, want, tt.by)
				}
				time.Sleep(backOver) // of the bubble: the replacement is built
				synctest.Wait()
				if i, by := pickHash(s, behave); i != 0 || by != core.ByPolicy {
					t.Errorf("pick afterwards is %d by %s, want 0 by policy", i, by)
				}
				st := s.Stats()
				if tt.failed == "" {
					if st.Failures != 0 {
						t.Errorf("%d failures counted, want none: %s", st.Failures, st.LastError)
					}
				} else if st.Failures != 1 || st.Replaced != 1 || !strings.Contains(st.LastError, tt.failed) {
					t.Errorf("stats are %+v, want a failure with %q and a replacement", st, tt.failed)
				}
			})
		})
	}
}

func TestFallbackUntilReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(t, testdata(t, "moody.wasm"), host.Config{})
		s.SetPool(poolOf(5))
		pickHash(s, trap)
		if _, by := pickHash(s, behave); by != core.ByFallback {
			t.Errorf("pick right after a trap is by %s, want by fallback", by)
		}
		s.SetPool(poolOf(6)) // while the replacement is built for another pool
		time.Sleep(backOver)
		synctest.Wait()
		if i, by := pickHash(s, answer(5)); i != 5 || by != core.ByPolicy {
			t.Errorf("pick is %d by %s, want 5 by policy: the new instance knows the new pool", i, by)
		}
	})
}

func TestQuarantine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(t, testdata(t, "moody.wasm"), host.Config{})
		s.SetPool(poolOf(5))
		for n := 1; n <= 6; n++ {
			if s.Stats().Quarantined {
				t.Fatalf("policy is in quarantine after %d failures, want 6", n-1)
			}
			pickHash(s, trap)
			time.Sleep(backOver)
			synctest.Wait()
		}
		if !s.Stats().Quarantined {
			t.Errorf("policy is not in quarantine after 6 failures")
		}
		if i, by := pickHash(s, behave); i < 0 || by != core.ByFallback {
			t.Errorf("pick in quarantine is %d by %s, want one by fallback", i, by)
		}
	})
}

func TestRareFailuresDoNotAddUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(t, testdata(t, "moody.wasm"), host.Config{})
		s.SetPool(poolOf(5))
		for range 20 {
			pickHash(s, trap)
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			if _, by := pickHash(s, behave); by != core.ByPolicy {
				t.Fatalf("pick is by %s, want by policy", by)
			}
			time.Sleep(2 * time.Minute)
		}
	})
}

// A pool that the guest fails on is no way to stop traffic either.
func TestBackendsTrapsAndRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(t, testdata(t, "moody.wasm"), host.Config{})
		for _, n := range []int{13, 14} {
			s.SetPool(poolOf(n))
			if i, by := pickHash(s, behave); i < 0 || by != core.ByFallback {
				t.Errorf("pick of %d backends is %d by %s, want one by fallback", n, i, by)
			}
		}
		time.Sleep(backOver)
		synctest.Wait()
		s.SetPool(poolOf(5))
		if _, by := pickHash(s, behave); by != core.ByPolicy {
			t.Errorf("pick is by %s, want by policy: %s", by, s.Stats().LastError)
		}
	})
}

func TestCloseWhileReplacing(t *testing.T) {
	s := newScheduler(t, testdata(t, "moody.wasm"), host.Config{})
	s.SetPool(poolOf(5))
	pickHash(s, trap) // Close, in the clean-up, does not wait for the pause
}

// A guest that grows in every pick is served until its memory is full, and on
// after that: growing then fails inside the guest.
func TestGrowthInEveryPick(t *testing.T) {
	s := newScheduler(t, testdata(t, "moody.wasm"), host.Config{})
	s.SetPool(poolOf(5))
	for n := range 300 {
		if i, by := pickHash(s, grow); i != 0 || by != core.ByPolicy {
			t.Fatalf("pick %d is %d by %s, want 0 by policy: %s", n, i, by, s.Stats().LastError)
		}
	}
}
