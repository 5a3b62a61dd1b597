package reconcile

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a loop with fake targets that a script drives.
type bench struct {
	t       testscript.T
	loop    *Loop[state]
	targets []*fake
	log     *journal
	read    int // operations that expect has seen
	want    state
	rev     uint64
	events  chan Event
}

// Scripts know these commands; a leading ! has testscript's meaning only for
// await, which must then not return.
//
//	targets a b …       start a loop with these targets, once
//	set 3               the desired state is revision 3
//	complete            and from now on states are complete
//	expect 'op' …       the next operations of all targets, in order
//	set-faulty a add    an operation of a target fails from now on
//	clear-faulty a add  and works again
//	expect-retry a 3    a target has failed this often
//	drift a             somebody changes a target's machine
//	kick a              ask for a Verify; '' is all
//	event kind a        the next event
//	await 3             until the revision is there
//	status a 3 ok 1     revision, ok or failed, drifts
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"targets":      start,
			"set":          with((*bench).set),
			"complete":     with((*bench).complete),
			"expect":       with((*bench).expect),
			"set-faulty":   with(func(b *bench, ts *testscript.TestScript, a []string) { b.target(ts, a[0]).fault(a[1], true) }),
			"clear-faulty": with(func(b *bench, ts *testscript.TestScript, a []string) { b.target(ts, a[0]).fault(a[1], false) }),
			"expect-retry": with((*bench).expectRetry),
			"drift":        with(func(b *bench, ts *testscript.TestScript, a []string) { b.target(ts, a[0]).drift(true) }),
			"kick":         with(func(b *bench, _ *testscript.TestScript, a []string) { b.loop.Kick(a[0]) }),
			"event":        with((*bench).event),
			"status":       with((*bench).status),
			"await":        await,
		},
		Setup: func(env *testscript.Env) error {
			env.Values["bench"] = &bench{t: env.T(), log: newJournal(), events: make(chan Event, 100)}
			return nil
		},
	})
}

func of(ts *testscript.TestScript) *bench { return ts.Value("bench").(*bench) }

func with(do func(*bench, *testscript.TestScript, []string)) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, _ bool, args []string) { do(of(ts), ts, args) }
}

func start(ts *testscript.TestScript, _ bool, names []string) {
	b := of(ts)
	var targets []Target[state]
	for _, n := range names {
		f := newFake(n, b.log)
		b.targets, targets = append(b.targets, f), append(targets, f)
	}
	b.loop = New(Config[state]{
		Targets: targets, Revision: revision, Complete: complete, OnEvent: func(e Event) { b.events <- e },
		Verify: time.Hour, FirstRetry: time.Millisecond, MaxRetry: 4 * time.Millisecond,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- b.loop.Run(ctx) }()
	ts.Defer(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Fatal(err)
		}
		if ops, _ := b.log.read(); len(ops) > b.read {
			b.t.Fatal(fmt.Sprintf("not expected: %q", ops[b.read:]))
		}
	})
}

func (b *bench) target(ts *testscript.TestScript, name string) *fake {
	i := slices.IndexFunc(b.targets, func(f *fake) bool { return f.name == name })
	if i < 0 {
		ts.Fatalf("no target %s", name)
	}
	return b.targets[i]
}

func (b *bench) set(ts *testscript.TestScript, args []string) {
	rev, err := strconv.ParseUint(args[0], 10, 64)
	ts.Check(err)
	b.want.rev = rev
	s := b.want
	b.loop.Set(&s)
}

func (b *bench) complete(*testscript.TestScript, []string) { b.want.complete = true }

func (b *bench) expect(ts *testscript.TestScript, want []string) {
	timeout := time.After(10 * time.Second)
	for {
		ops, more := b.log.read()
		got := ops[min(b.read, len(ops)):min(b.read+len(want), len(ops))]
		if len(got) == len(want) || !slices.Equal(got, want[:len(got)]) {
			b.read += len(got)
			if !slices.Equal(got, want) {
				ts.Fatalf("operations\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
			}
			return
		}
		select {
		case <-more:
		case <-timeout:
			ts.Fatalf("timed out: operations %q, want %q", got, want)
		}
	}
}

func (b *bench) statusOf(ts *testscript.TestScript, name string) Status {
	i := slices.Index(b.targets, b.target(ts, name))
	return b.loop.Status()[i]
}

func (b *bench) expectRetry(ts *testscript.TestScript, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	b.until(ts, func() bool { return b.statusOf(ts, args[0]).Retries >= n })
}

func (b *bench) status(ts *testscript.TestScript, args []string) {
	var got string
	b.until(ts, func() bool {
		s := b.statusOf(ts, args[0])
		health := "ok"
		if s.Error != nil {
			health = "failed"
		}
		got = fmt.Sprintf("%d %s %d", s.Revision, health, s.Drifts)
		return got == strings.Join(args[1:], " ")
	})
}

// until waits on the loop's statuses.
func (b *bench) until(ts *testscript.TestScript, ok func() bool) {
	timeout := time.After(10 * time.Second)
	for {
		b.loop.mu.Lock()
		changed := b.loop.changed
		b.loop.mu.Unlock()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			ts.Fatalf("timed out: status %+v", b.loop.Status())
		}
	}
}

func (b *bench) event(ts *testscript.TestScript, want []string) {
	select {
	case e := <-b.events:
		if string(e.Kind) != want[0] || e.Target != want[1] || (e.Err == nil) != (e.Kind == Recovery) {
			ts.Fatalf("event %+v, want %v", e, want)
		}
	case <-time.After(10 * time.Second):
		ts.Fatalf("timed out: no event, want %v", want)
	}
}

func await(ts *testscript.TestScript, neg bool, args []string) {
	rev, err := strconv.ParseUint(args[0], 10, 64)
	ts.Check(err)
	timeout := 10 * time.Second
	if neg {
		timeout = 20 * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := of(ts).loop.Wait(ctx, rev); (err != nil) != neg {
		ts.Fatalf("wait %d: %v", rev, err)
	}
}
