package reconcile

import (
	"log/slog"
	"time"
)

// The intervals of a Config that does not name them.
const (
	DefaultVerify     = 30 * time.Second
	DefaultFirstRetry = 100 * time.Millisecond
	DefaultMaxRetry   = 10 * time.Second
)

// settle is how long a Kick waits for more of a burst.
const settle = 5 * time.Millisecond

// repairsAtOnce is how many repairs may follow each other without a pause.
const repairsAtOnce = 5

// Config is what a Loop is made from. Only Targets and Revision are required.
type Config[S any] struct {
	Targets  []Target[S]     // in the order of Add; Prune goes the other way
	Revision func(*S) uint64 // of a state; grows
	Complete func(*S) bool   // reports whether a state may be pruned to; nil: always
	OnEvent  func(Event)     // called by the loop; must not block; may be nil
	Log      *slog.Logger    // nil: no logging

	Verify     time.Duration // interval of Verify
	FirstRetry time.Duration // back-off after the first failure; doubles with each
	MaxRetry   time.Duration // longest back-off
}

func (c Config[S]) withDefaults() Config[S] {
	if c.Complete == nil {
		c.Complete = func(*S) bool { return true }
	}
	if c.OnEvent == nil {
		c.OnEvent = func(Event) {}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	for d, def := range map[*time.Duration]time.Duration{
		&c.Verify: DefaultVerify, &c.FirstRetry: DefaultFirstRetry, &c.MaxRetry: DefaultMaxRetry,
	} {
		if *d <= 0 {
			*d = def
		}
	}
	return c
}

// Kind is what an Event is about.
type Kind string

// The kinds of events.
const (
	Drift    Kind = "drift"    // somebody changed the machine; it is repaired
	Failure  Kind = "failure"  // a target failed and is retried
	Recovery Kind = "recovery" // a target that failed works again
)

// Event is something that happened to a target.
type Event struct {
	Kind   Kind
	Target string
	Text   string // one line for people
	Err    error  // of a drift or a failure; nil for a recovery
}

// Status is the state of one target.
type Status struct {
	Target   string
	Revision uint64    // of the newest state that Add has made
	Error    error     // nil when the target works
	Since    time.Time // when Error began, or ended; zero before the first Add
	Retries  int       // failures since the target worked last
	Drifts   uint64    // repaired
}
