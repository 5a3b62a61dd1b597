package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/caplance/caplance/core/hostnet"
	"github.com/caplance/caplance/core/reconcile"
	"github.com/caplance/caplance/core/ruleset"
	"github.com/caplance/caplance/core/witness"
)

// machine is the part of the host that an agent changes.
type machine struct {
	out     io.Writer                   // the local stack: takes one IP packet; may be called at any time
	targets []reconcile.Target[desired] // in the order of Add
	watches []watch
	kernel  bool             // packets are taken out of the tunnel in the kernel
	lasting func() bool      // reports whether they go on to be when the process has ended; nil: never
	witness *witness.Witness // nil: nobody knows which connections live
	// close undoes all changes, or leaves those to a successor that outlive the
	// process. The loop has ended.
	close func(leave bool) error
}

// watch calls kick with the name of a target that may have been changed, "" for
// any, until ctx ends, which is no error.
type watch func(ctx context.Context, kick func(target string)) error

// local is this host.
type local struct {
	device   *device
	journal  *hostnet.Journal
	rules    *ruleset.ClampTarget
	receiver *receiver // nil: packets come up
	witness  *witness.Witness
}

// openMachine takes this host over. The device comes first: it is the only one
// of a network namespace, so who cannot have it changes nothing.
func (a *Agent) openMachine() (*machine, error) {
	dev, err := openDevice()
	if err != nil {
		return nil, err
	}
	journal, err := hostnet.Adopt(filepath.Join(a.config().StateDir, "agent.journal"))
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	if n := journal.Adopted(); n > 0 {
		a.log.Info("took over what a killed agent left", "changes", n)
	}
	h := &local{device: dev, journal: journal}
	if h.receiver, err = a.openReceiver(); err != nil {
		return nil, errors.Join(err, h.close(true))
	}
	h.witness = a.openWitness()
	return h.machine(), nil
}

// machine returns the host as targets. The clamp comes before the address, so
// that no SYN-ACK leaves without it.
func (h *local) machine() *machine {
	addresses, rules := hostnet.NewTarget(h.journal), ruleset.NewClamp()
	h.rules = rules
	m := &machine{
		out: h.device, close: h.close, witness: h.witness,
		targets: []reconcile.Target[desired]{h.device, reconcile.View(rules, clamp), reconcile.View(addresses, host)},
		watches: []watch{
			// The device's sysctls go with it: it has to be seen to first.
			func(ctx context.Context, kick func(string)) error { return addresses.Watch(ctx, func() { kick("") }) },
			func(ctx context.Context, kick func(string)) error {
				return ruleset.Watch(ctx, func() { kick(rules.String()) })
			},
		},
	}
	if r := h.receiver; r != nil {
		m.kernel, m.lasting = true, r.lasting.Load
		m.targets, m.watches = append(m.targets, reconcile.View(r, accept)), append(m.watches, r.lookAfter)
	}
	return m
}

func (h *local) close(leave bool) (err error) {
	if h.receiver != nil {
		err = h.receiver.end(leave)
	}
	if h.witness != nil {
		_ = h.witness.Close() // Run has closed it
		if !leave {
			err = errors.Join(err, h.witness.Forget())
		}
	}
	if h.rules != nil {
		err = errors.Join(err, h.rules.Release())
	}
	if leave {
		err = errors.Join(err, h.journal.Leave())
	} else {
		err = errors.Join(err, h.journal.Close(), ruleset.RemoveClamp())
	}
	if err = errors.Join(err, h.device.Close()); err != nil {
		return fmt.Errorf("clean-up: %w", err)
	}
	return nil
}
