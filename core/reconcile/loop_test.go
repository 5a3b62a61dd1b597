package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// run starts a loop over fakes inside a synctest bubble.
func run(t *testing.T, targets ...Target[state]) *Loop[state] {
	t.Helper()
	l := New(Config[state]{Targets: targets, Revision: revision, Complete: complete})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := l.Wait(t.Context(), 1<<60); err == nil {
			t.Error("Wait for what never comes returned nil")
		}
	})
	return l
}

func TestBackoffDoublesUpToItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFake("a", newJournal())
		a.fault("add", true)
		l := run(t, a)
		l.Set(&state{rev: 1})
		var tries []int
		for range 6 { // at 0, 100, 300, 700, 1500, 3100, 6300, 12700, 22700 ms …
			time.Sleep(time.Second - time.Microsecond)
			synctest.Wait()
			tries = append(tries, a.count("add"))
			time.Sleep(time.Microsecond)
		}
		if want := []int{4, 5, 5, 6, 6, 6}; !slices.Equal(tries, want) {
			t.Errorf("tries after each second %v, want %v", tries, want)
		}
		before := a.count("add")
		time.Sleep(100 * time.Second)
		if n := a.count("add") - before; n < 9 || n > 11 {
			t.Errorf("%d tries in 100 s, want one in 10 s", n)
		}
		// A new state does not wait so long, but is not tried in a rush either.
		before = a.count("add")
		l.Set(&state{rev: 2})
		time.Sleep(150 * time.Millisecond)
		if n := a.count("add") - before; n < 1 || n > 2 {
			t.Errorf("%d tries of a new state in 150 ms", n)
		}
	})
}

func TestVerifyComesAtItsInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFake("a", newJournal())
		l := run(t, a)
		l.Set(&state{rev: 1, complete: true})
		time.Sleep(5*time.Minute + time.Second)
		if n := a.count("verify"); n != 10 {
			t.Errorf("%d verifications in 5 min, want 10", n)
		}
		if n := a.count("add"); n != 1 {
			t.Errorf("%d Adds of one state", n)
		}
	})
}

func TestKicksAreCoalesced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFake("a", newJournal())
		l := run(t, a)
		l.Set(&state{rev: 1})
		synctest.Wait()
		for range 1000 {
			l.Kick("a")
		}
		time.Sleep(2 * settle)
		synctest.Wait()
		if n := a.count("verify"); n != 1 {
			t.Errorf("%d verifications after a burst of kicks, want 1", n)
		}
	})
}

// As long as a Prune fails, neither a Verify nor the Add of a new state hides
// it.
func TestFailedPruneIsNotHidden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFake("a", newJournal())
		a.fault("prune", true)
		l := run(t, a)
		failing := func(what string, revision uint64) {
			t.Helper()
			synctest.Wait()
			if s := l.Status()[0]; s.Error == nil || s.Retries == 0 || s.Revision != revision {
				t.Errorf("%s: status %+v", what, s)
			}
		}
		l.Set(&state{rev: 1, complete: true})
		failing("first", 1)
		l.Kick("a")
		time.Sleep(time.Minute)
		failing("verified", 1)
		if a.count("verify") == 0 {
			t.Error("nothing was verified")
		}
		l.Set(&state{rev: 2, complete: true})
		time.Sleep(time.Millisecond)
		failing("new state", 2)
		a.fault("prune", false)
		time.Sleep(time.Minute)
		if s := l.Status()[0]; s.Error != nil || s.Retries != 0 {
			t.Errorf("works again: status %+v", s)
		}
	})
}

// Somebody who changes things back at once is answered, but not in a rush.
func TestRepairsAreSpaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFake("a", newJournal())
		l := run(t, a)
		l.Set(&state{rev: 1})
		synctest.Wait()
		for range 1000 {
			a.drift(true)
			l.Kick("a")
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		if n := l.Status()[0].Drifts; n < 12 || n > 17 {
			t.Errorf("%d repairs in a second, want 5 at once and 10 after them", n)
		}
	})
}

// slow is a target whose Add takes a second.
type slow struct{ *fake }

func (s slow) Add(ctx context.Context, was, want *state) error {
	time.Sleep(time.Second)
	return s.fake.Add(ctx, was, want)
}

func TestBurstIsOneAdd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newJournal()
		l := run(t, slow{newFake("a", log)})
		l.Set(&state{rev: 1})
		synctest.Wait()
		for rev := range uint64(100) {
			l.Set(&state{rev: rev + 2})
		}
		if err := l.Wait(t.Context(), 50); err != nil {
			t.Fatal(err)
		}
		want := []string{"a.add ->1", "a.add 1>101"}
		if ops, _ := log.read(); !slices.Equal(ops, want) {
			t.Errorf("operations %q, want %q", ops, want)
		}
	})
}

func TestEndOfContextIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config[state]{Targets: []Target[state]{until{}}, Revision: revision})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- l.Run(ctx) }()
		l.Set(&state{rev: 1})
		synctest.Wait()
		cancel()
		if err := <-done; err != nil || l.Status()[0].Error != nil {
			t.Errorf("Run: %v, status %+v", err, l.Status())
		}
		if err := l.Wait(t.Context(), 1); !errors.Is(err, ErrStopped) {
			t.Errorf("Wait: %v, want ErrStopped", err)
		}
	})
}

// until is a target that blocks until ctx ends.
type until struct{}

func (until) String() string                              { return "until" }
func (until) Add(ctx context.Context, _, _ *state) error  { <-ctx.Done(); return ctx.Err() }
func (until) Prune(context.Context, *state, *state) error { return nil }
func (until) Verify(context.Context, *state) error        { return nil }

// part is what a view of whole shows; parts are equal by value.
type part struct{ n int }

func (p *part) Equal(q *part) bool { return p.n == q.n }

type whole struct{ a, b int }

// parts records the calls of a target of *part.
type parts struct{ calls []string }

func (p *parts) String() string { return "parts" }
func (p *parts) note(op string, was, want *part) error {
	text := "-"
	if was != nil {
		text = fmt.Sprint(was.n)
	}
	p.calls = append(p.calls, fmt.Sprintf("%s %s>%d", op, text, want.n))
	return nil
}
func (p *parts) Add(_ context.Context, was, want *part) error   { return p.note("add", was, want) }
func (p *parts) Prune(_ context.Context, was, want *part) error { return p.note("prune", was, want) }
func (p *parts) Verify(_ context.Context, want *part) error     { return p.note("verify", want, want) }

func TestViewSkipsWhatDidNotChange(t *testing.T) {
	ctx := t.Context()
	views := 0
	p := &parts{}
	v := View(p, func(w *whole) *part { views++; return &part{w.a} })
	s1, s2, s3 := &whole{1, 1}, &whole{1, 2}, &whole{2, 2}
	err := errors.Join(
		v.Add(ctx, nil, s1), v.Prune(ctx, nil, s1),
		v.Add(ctx, s1, s2), v.Prune(ctx, s1, s2),
		v.Add(ctx, s2, s3), v.Prune(ctx, s2, s3),
		v.Verify(ctx, s3), v.Add(ctx, nil, s3),
	)
	want := []string{"add ->1", "prune ->1", "add 1>2", "prune 1>2", "verify 2>2", "add ->2"}
	if err != nil || !slices.Equal(p.calls, want) {
		t.Errorf("calls %q, %v, want %q", p.calls, err, want)
	}
	if views != 3 {
		t.Errorf("view was called %d times for 3 states", views)
	}
	if v.String() != "parts" {
		t.Errorf("name %q", v)
	}
}

// Settle waits for what comes, and gives up on a target that goes on failing.
func TestSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFake("a", newJournal())
		a.fault("add", true)
		l := run(t, a)
		l.Set(&state{rev: 1})
		begin := time.Now()
		if err := l.Settle(t.Context(), 1, 3*time.Second); err == nil || time.Since(begin) < 3*time.Second || time.Since(begin) > 4*time.Second {
			t.Errorf("after %s: %v", time.Since(begin), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := l.Settle(ctx, 1, time.Hour); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("at the end of its context: %v", err)
		}
		a.fault("add", false)
		if err := l.Settle(t.Context(), 1, time.Hour); err != nil {
			t.Error(err)
		}
	})
}
