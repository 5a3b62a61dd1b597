package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/announce"
	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/e2e/fleet"
)

// timeout is how long anything may take: a case that takes longer is broken.
const timeout = 3 * time.Minute

// measure takes the figures of one case.
func measure(ctx context.Context, o options, c shape) (_ *result, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	b, err := newTestbed(c)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	r := &result{shape: c}
	begin := time.Now()
	if err := b.start(ctx, o.bin, c); err != nil {
		return nil, err
	}
	r.start = time.Since(begin)
	if o.log != "" {
		defer func() { err = errors.Join(err, os.WriteFile(o.log, []byte(b.server.Output()), 0o644)) }()
	}
	if err := b.memory(r, 0); err != nil {
		return nil, err
	}
	steps := []func(context.Context, *result) error{b.idle(o.idle)}
	if c.backends > 0 {
		steps = []func(context.Context, *result) error{b.join, b.idle(o.idle), b.oneMore, b.reconnect, b.succeed(o.bin)}
	}
	for _, step := range steps {
		if err := step(ctx, r); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (b *testbed) pid() int { return b.server.Cmd.Process.Pid }

func (b *testbed) memory(r *result, at int) (err error) {
	if r.resident[at], r.peak[at], err = resident(b.pid()); err != nil {
		return err
	}
	r.kernel[at], err = kernelMemory(b.pid())
	return err
}

// join has all agents register and waits until every service has them.
func (b *testbed) join(ctx context.Context, r *result) error {
	var all [][]string
	for i := range r.backends {
		all = append(all, r.serves(i))
	}
	before, err := cpuTime(b.pid())
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := b.fleet.Connect(ctx, b.fleet.Add(all...)); err != nil {
		return err
	}
	if err := b.fleet.Await(ctx, r.backends); err != nil {
		return err
	}
	r.agents = time.Since(begin)
	if err := b.settled(ctx, r, r.members()); err != nil {
		return err
	}
	after, err := cpuTime(b.pid())
	if err != nil {
		return err
	}
	r.cpuAgents = after - before
	return b.memory(r, 1)
}

// settled waits until every service has its members and the kernel all of them.
func (b *testbed) settled(ctx context.Context, r *result, members int) error {
	err := b.await(ctx, func() error {
		rows, err := b.control().Services(ctx)
		if err != nil {
			return err
		}
		for _, s := range rows {
			if s.Eligible != members {
				return fmt.Errorf("service %s has %d eligible backends of %d", s.Name, s.Eligible, members)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i := range r.services {
		if err := b.await(ctx, func() error { return b.inTable(core.ServiceID(i), members) }); err != nil {
			return err
		}
	}
	return nil
}

// announcing is how long the VIPs are announced after a start.
const announcing = announce.DefaultCount * announce.DefaultInterval

// idle watches the CPU time of a balancer to which nothing happens but
// heartbeats.
func (b *testbed) idle(d time.Duration) func(context.Context, *result) error {
	return func(ctx context.Context, r *result) error {
		if d == 0 {
			return nil
		}
		if err := pause(ctx, announcing); err != nil {
			return err
		}
		before, err := cpuTime(b.pid())
		if err != nil {
			return err
		}
		sent, err := b.traffic()
		if err != nil {
			return err
		}
		begin := time.Now()
		if err := pause(ctx, d); err != nil {
			return err
		}
		after, err := cpuTime(b.pid())
		if err != nil {
			return err
		}
		all, err := b.traffic()
		passed := time.Since(begin).Seconds()
		r.cpu, r.bytes = (after-before).Seconds()/passed, float64(all-sent)/passed
		return err
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// oneMore has another agent register, and looks when it is listed, and when the
// kernel sends flows to it.
func (b *testbed) oneMore(ctx context.Context, r *result) error {
	begin := time.Now()
	if _, err := b.control().Backends(ctx); err != nil {
		return err
	}
	r.list = time.Since(begin)
	one := b.fleet.Add(r.serves(r.backends))
	begin = time.Now()
	if err := b.fleet.Connect(ctx, one); err != nil {
		return err
	}
	placed := make(chan error, 1)
	go func() {
		placed <- b.await(ctx, func() error { return b.placed(r, one[0]) })
		r.placed = time.Since(begin)
	}()
	err := b.fleet.Await(ctx, r.backends+1)
	r.active = time.Since(begin)
	if err == nil {
		err = b.lists(ctx, one[0])
	}
	r.visible = time.Since(begin)
	return errors.Join(err, <-placed)
}

// lists returns nil when a backend is listed as active in all its services.
func (b *testbed) lists(ctx context.Context, a *fleet.Agent) error {
	rows, err := b.control().BackendsOf(ctx, api.BackendFilter{Backend: a.Name})
	if err != nil {
		return err
	}
	n := 0
	for _, row := range rows {
		if row.Name == a.Name && row.State == core.Active {
			n++
		}
	}
	if n < len(a.Services) {
		return fmt.Errorf("backend %s is active in %d services", a.Name, n)
	}
	return nil
}

// placed returns nil when all of a new backend's services have it in their
// lookup tables.
func (b *testbed) placed(r *result, a *fleet.Agent) error {
	for _, name := range a.Services {
		var id core.ServiceID
		if _, err := fmt.Sscanf(name, "s%d", &id); err != nil { // a new balancer numbers them in their order
			return err
		}
		if err := b.inTable(id, r.members()+1); err != nil {
			return err
		}
	}
	return nil
}

// succeed kills the balancer, starts another one and waits until all agents are
// back. They do not wait for each other.
func (b *testbed) succeed(bin string) func(context.Context, *result) error {
	return func(ctx context.Context, r *result) error {
		b.server.Signal(syscall.SIGSTOP) // it is not to see that they hang up
		b.fleet.HangUp(b.fleet.All())
		b.server.Kill()
		begin := time.Now()
		if err := b.start(ctx, bin, r.shape); err != nil {
			return err
		}
		r.restart = time.Since(begin)
		if err := b.fleet.Connect(ctx, b.fleet.All()); err != nil {
			return err
		}
		if err := b.fleet.Await(ctx, r.backends+1); err != nil {
			return err
		}
		r.back = time.Since(begin)
		return nil
	}
}

// reconnect breaks the connections of many agents and waits until they are
// back.
func (b *testbed) reconnect(ctx context.Context, r *result) error {
	some := b.fleet.All()[:r.lost]
	b.fleet.HangUp(some)
	begin := time.Now()
	if err := b.fleet.Connect(ctx, some); err != nil {
		return err
	}
	if err := b.fleet.Await(ctx, r.backends+1); err != nil {
		return err
	}
	r.again = time.Since(begin)
	return nil
}
