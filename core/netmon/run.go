package netmon

import (
	"context"
	"time"

	nl "github.com/mdlayher/netlink"
)

// agenda is what Run has to do, and when.
type agenda struct {
	todo      stale
	timer     *time.Timer // for todo
	notBefore time.Time
	asked     time.Time // all MACs were confirmed
	refreshed time.Time // all paths were resolved
}

// add has what is out of date brought up to date soon.
func (a *agenda) add(s stale, soon time.Duration) {
	if !a.todo.any() && s.any() {
		a.timer.Reset(max(soon, time.Until(a.notBefore)))
	}
	a.todo = a.todo.or(s)
}

// Run follows the kernel's events until ctx ends, which is no error.
func (m *Monitor) Run(ctx context.Context) error {
	received, ended := make(chan []nl.Message), make(chan error, 1)
	go func() { ended <- m.receive(ctx, received) }()
	a := &agenda{timer: time.NewTimer(time.Hour), asked: time.Now(), refreshed: time.Now()}
	defer a.timer.Stop()
	tick := time.NewTicker(askMissing)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case msgs := <-received:
			a.add(m.apply(msgs), coalesce)
		case <-m.wake:
			a.add(stale{watched: true}, 0)
		case <-a.timer.C:
			m.work(a)
		case now := <-tick.C:
			m.tick(a, now)
		}
	}
}

// work does what is due. One that takes long, with many paths, leaves most of
// the processor's time to others.
func (m *Monitor) work(a *agenda) {
	todo, start := a.todo, time.Now()
	a.todo = stale{}
	err := m.update(todo)
	a.notBefore = time.Now().Add(10 * time.Since(start))
	if err != nil {
		m.log.Warn("network not read, trying again", "err", err)
		a.add(todo, askMissing)
	}
}

// tick does what the kernel gives no event for.
func (m *Monitor) tick(a *agenda, now time.Time) {
	confirm := now.Sub(a.asked) >= confirmMACs
	m.ask(confirm)
	if confirm {
		a.asked = now
	}
	if now.Sub(a.refreshed) >= refreshPaths {
		a.refreshed = now
		a.add(stale{paths: true}, 0)
	}
}
