package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/e2e/cluster"
)

// The script's times, from the first request on.
const (
	death   = 3 * time.Second
	rebirth = 6 * time.Second
	end     = 10 * time.Second

	lease = 1500 * time.Millisecond // five heartbeats
	frame = 200 * time.Millisecond  // between two looks at the balancer
)

// demo is what the script runs with.
type demo struct {
	cluster *cluster.Cluster
	display *display
	policy  string
	load    *load
	totals  totals
	start   time.Time
	victim  *cluster.Backend
}

func newDemo(c *cluster.Cluster, s *display, policy string) *demo {
	return &demo{cluster: c, display: s, policy: policy, load: newLoad(c.Client), victim: c.Backends[1]}
}

const opening = `
Caplance: a balancer, three backends and a client, each in a network namespace of its own.

    client ──► VIP ──► balancer ──tunnel──► b1, b2, b3
      ▲                                         │
      └────── replies go straight back ─────────┘

The client asks %s and %s, by HTTP and by UDP. The policy %q, a
WebAssembly module, picks the backend of every new flow.

The shares are those of the last second. For a short show a backend is given
up after %s of silence (registry.lease, and registry.rejoin of an agent that
was killed); the defaults are 4s and 30s.

`

// play runs the script and checks that all went as it says.
func (d *demo) play(ctx context.Context) error {
	d.display.printf(opening, cluster.VIP4, cluster.VIP6, d.policy, lease)
	if err := d.cluster.StartServer(ctx); err != nil {
		return err
	}
	if err := d.cluster.StartAgents(ctx); err != nil {
		return err
	}
	d.start = time.Now()
	d.say("the agents of b1, b2 and b3 have registered, the requests begin")
	defer d.load.stop()
	d.load.run(ctx)
	if err := d.failover(ctx); err != nil {
		return err
	}
	d.load.stop()
	if _, err := d.look(ctx); err != nil {
		return err
	}
	d.display.clear()
	return d.verify(ctx)
}

// failover lets the victim die and come back under load.
func (d *demo) failover(ctx context.Context) error {
	if err := d.watchUntil(ctx, death); err != nil {
		return err
	}
	name := d.victim.Name
	d.victim.Agent.Kill()
	killed := time.Now()
	d.say("kill -9: the agent of %s is dead; it gets no new flows while its lease runs out", name)
	if err := d.watch(ctx, name+"'s lease to end", func(rows []api.BackendRow) bool {
		return !slices.ContainsFunc(rows, func(r api.BackendRow) bool { return r.Name == name })
	}); err != nil {
		return err
	}
	d.load.excuse(killed, time.Now())
	d.say("%s is given up after %.1f s: what flows it had are scheduled anew, all others stay", name, time.Since(killed).Seconds())
	if err := d.watchUntil(ctx, rebirth); err != nil {
		return err
	}
	d.say("%s starts again", name)
	if err := d.victim.StartAgent(ctx); err != nil {
		return err
	}
	if err := d.watch(ctx, name+" to be back", func(rows []api.BackendRow) bool {
		return slices.ContainsFunc(rows, func(r api.BackendRow) bool { return r.Name == name && r.State == core.Active })
	}); err != nil {
		return err
	}
	d.say("%s proved its data path and takes its share again", name)
	return d.watchUntil(ctx, end)
}

// say prints a line of the script.
func (d *demo) say(format string, args ...any) {
	d.display.printf("%5.1f s  %s\n", time.Since(d.start).Seconds(), fmt.Sprintf(format, args...))
}

// watchUntil shows the shares until a time of the script.
func (d *demo) watchUntil(ctx context.Context, t time.Duration) error {
	return d.watch(ctx, "the next step", func([]api.BackendRow) bool { return time.Since(d.start) >= t })
}

// watch shows the shares until a condition of the backends holds.
func (d *demo) watch(ctx context.Context, what string, done func([]api.BackendRow) bool) error {
	tick := time.NewTicker(frame)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); ; {
		rows, err := d.look(ctx)
		if err != nil {
			return err
		}
		if done(rows) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited in vain for %s", what)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// look asks the balancer for its counters and shows them.
func (d *demo) look(ctx context.Context) ([]api.BackendRow, error) {
	rows, err := d.cluster.Control().Backends(ctx)
	if err != nil {
		return nil, err
	}
	d.totals.add(time.Now(), rows)
	d.display.shares(time.Since(d.start), d.totals.lines())
	return rows, nil
}

// verify returns what did not go as the script says, and prints what did.
func (d *demo) verify(ctx context.Context) error {
	services, err := d.cluster.Control().Services(ctx)
	if err != nil {
		return err
	}
	var byPolicy, others uint64
	for _, s := range services {
		for by, n := range s.Picks {
			if by == core.ByPolicy.String() {
				byPolicy += n
			} else {
				others += n
			}
		}
	}
	stats, err := d.cluster.Control().Stats(ctx)
	if err != nil {
		return err
	}
	kernel, up := stats.Counters["kernel_forwarded"], stats.Counters["forwarded"]
	sum := d.load.sum()
	d.display.printf("\n%d requests: %d answered, %d lost while %s was dead and not yet given up.\n"+
		"%d new flows, every one scheduled by the policy %q.\n"+
		"%d packets came up to userspace, %d stayed in the kernel; datapath %s.\n\n",
		sum.answered+sum.excused+sum.failed, sum.answered, sum.excused, d.victim.Name, byPolicy, d.policy, up, kernel, stats.Datapath)
	var errs []error
	if sum.failed > 0 {
		errs = append(errs, fmt.Errorf("%d requests failed that should not have; the first, begun at %.1f s: %w",
			sum.failed, sum.began.Sub(d.start).Seconds(), sum.first))
	}
	if others > 0 {
		errs = append(errs, fmt.Errorf("%d flows were not scheduled by the policy", others))
	}
	for _, l := range d.totals.lines() {
		if l.flows == 0 {
			errs = append(errs, fmt.Errorf("backend %s got no flows", l.name))
		}
		if l.state != core.Active.String() {
			errs = append(errs, fmt.Errorf("backend %s is %s in the end", l.name, l.state))
		}
	}
	return errors.Join(errs...)
}

// table prints how the demo ends.
func (d *demo) table() { d.display.table(d.totals.lines()) }

// stop ends agents and balancer as their operator would.
func (d *demo) stop() error {
	var errs []error
	for _, b := range d.cluster.Backends {
		errs = append(errs, b.StopAgent())
	}
	return errors.Join(append(errs, d.cluster.StopServer())...)
}

// explain adds the balancer's last words to an error in the script; one before
// it carries them, and one after Ctrl-C needs none.
func (d *demo) explain(ctx context.Context, err error) error {
	d.display.clear()
	if ctx.Err() != nil || d.start.IsZero() {
		return err
	}
	log := d.cluster.Server.Output()
	return fmt.Errorf("%w\nthe balancer's log ends with:\n%s", err, log[max(0, len(log)-2000):])
}
