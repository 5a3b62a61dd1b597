package reconcile

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// state is the tests' desired state.
type state struct {
	rev      uint64
	complete bool
}

func revision(s *state) uint64 { return s.rev }
func complete(s *state) bool   { return s.complete }

// journal is the operations of all fakes in their order, each
// "target.operation was>want", "-" for an unknown was; a failure ends in "!".
// The same operation again and again is written once.
type journal struct {
	mu      sync.Mutex
	ops     []string
	changed chan struct{}
}

func newJournal() *journal { return &journal{changed: make(chan struct{})} }

func (j *journal) add(op string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if n := len(j.ops); n > 0 && j.ops[n-1] == op {
		return
	}
	j.ops = append(j.ops, op)
	close(j.changed)
	j.changed = make(chan struct{})
}

// read returns the operations and a channel that is closed when there are more.
func (j *journal) read() ([]string, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]string(nil), j.ops...), j.changed
}

var errFaulty = errors.New("faulty")

// fake is a target whose machine is a flag.
type fake struct {
	name string
	log  *journal

	mu      sync.Mutex
	faults  map[string]bool // operations that fail
	drifted bool
	calls   map[string]int // verify is counted, not logged
}

func newFake(name string, log *journal) *fake {
	return &fake{name: name, log: log, faults: map[string]bool{}, calls: map[string]int{}}
}

func (f *fake) String() string { return f.name }

func (f *fake) do(op string, was, want *state) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[op]++
	line := fmt.Sprintf("%s.%s %s>%d", f.name, op, revText(was), want.rev)
	if f.faults[op] {
		f.log.add(line + "!")
		return errFaulty
	}
	f.log.add(line)
	return nil
}

func revText(s *state) string {
	if s == nil {
		return "-"
	}
	return fmt.Sprint(s.rev)
}

func (f *fake) Add(_ context.Context, was, want *state) error {
	err := f.do("add", was, want)
	if err == nil && was == nil {
		f.drift(false)
	}
	return err
}

func (f *fake) Prune(_ context.Context, was, want *state) error { return f.do("prune", was, want) }

func (f *fake) Verify(context.Context, *state) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls["verify"]++
	switch {
	case f.faults["verify"]:
		return errFaulty
	case f.drifted:
		return fmt.Errorf("%s is gone: %w", f.name, ErrDrift)
	}
	return nil
}

func (f *fake) fault(op string, on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults[op] = on
}

func (f *fake) drift(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drifted = on
}

func (f *fake) count(op string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}
