package agent

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/fastpath"
	"github.com/caplance/caplance/core/reconcile"
)

// checkReceiver is how often the program is looked for: the kernel tells nobody
// when one is detached or a clsact qdisc deleted.
const checkReceiver = time.Second

// receiver is the target that keeps the BPF program at the ingress of the link
// with the data IP, where it takes packets out of the tunnel.
type receiver struct {
	port     uint16
	stateDir string
	link     string
	prog     *fastpath.Receiver
	lasting  atomic.Bool // prog outlives the process
}

// openReceiver goes down to the kernel's type, if the configuration wants that
// and the kernel has it; nil without error when packets come up instead.
func (a *Agent) openReceiver() (*receiver, error) {
	c := a.config()
	if c.Type == core.Userspace {
		return nil, fastpath.UnloadReceiver(c.StateDir, a.store.link())
	}
	r, err := newReceiver(a.store.link(), c.Port, c.StateDir)
	switch {
	case err == nil:
		a.log.Info("packets are taken out of the tunnel in the kernel", "link", r.link)
		return r, nil
	case c.Type == core.TC:
		return nil, fmt.Errorf("type %s: %w", c.Type, err)
	}
	a.log.Warn("packets are taken out of the tunnel in userspace", "why", err)
	return nil, fastpath.UnloadReceiver(c.StateDir, a.store.link())
}

func newReceiver(link string, port uint16, stateDir string) (*receiver, error) {
	if link == "" {
		return nil, errors.New("no link that a program can be attached to has the data IP")
	}
	prog, err := fastpath.OpenReceiver(link, port, stateDir)
	if err != nil {
		return nil, err
	}
	return &receiver{port: port, stateDir: stateDir, link: link, prog: prog}, nil
}

// String implements reconcile.Target.
func (r *receiver) String() string { return "receiver" }

// Add implements reconcile.Target.
func (r *receiver) Add(_ context.Context, _, want *accepted) error {
	defer func() { r.lasting.Store(r.prog.Lasting()) }()
	if want.link != r.link {
		return r.move(want)
	}
	if err := r.prog.Attach(); err != nil {
		return err
	}
	return r.prog.Accept(want.vips, want.balancers)
}

// move puts another program at the link's new name before the old one goes.
func (r *receiver) move(want *accepted) error {
	next, err := fastpath.OpenReceiver(want.link, r.port, r.stateDir)
	if err != nil {
		return err
	}
	if err := next.Accept(want.vips, want.balancers); err != nil {
		return errors.Join(err, next.Close())
	}
	err = r.prog.GiveWay(next)
	r.link, r.prog = want.link, next
	return err
}

// Prune implements reconcile.Target. Until a balancer has spoken, what a
// predecessor took is taken.
func (r *receiver) Prune(_ context.Context, _, want *accepted) error {
	return r.prog.AcceptOnly(want.vips, want.balancers)
}

// Verify implements reconcile.Target. The maps have no name in the file system,
// so nobody else changes them.
func (r *receiver) Verify(_ context.Context, want *accepted) error {
	if !r.prog.Attached() {
		return fmt.Errorf("program at the ingress of %s is gone: %w", want.link, reconcile.ErrDrift)
	}
	return nil
}

// end detaches the program, so that the agent's socket takes the packets again, or
// leaves it to a successor.
func (r *receiver) end(leave bool) error {
	if leave {
		return r.prog.Release()
	}
	return r.prog.Close()
}

// lookAfter looks for the program all the time.
func (r *receiver) lookAfter(ctx context.Context, kick func(target string)) error {
	tick := time.NewTicker(checkReceiver)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			kick(r.String())
		}
	}
}
