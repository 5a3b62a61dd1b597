package hostnet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/reconcile"
)

// State is the addresses and sysctls that the machine is to have. It is not
// changed once it is a target's.
type State struct {
	Addrs   []Addr
	Sysctls map[string]string // key as of SetSysctl → value
}

// VIPsOf returns the VIPs of a snapshot on their links. One whose link is not
// there is put on it when it comes. One that is withdrawn is taken off, so that
// the machine answers no ARP for it; its packets are captured all the same.
func VIPsOf(s *core.Snapshot) *State {
	out, withdrawn := &State{}, s.Withdrawn()
	for _, v := range s.VIPs.List {
		if withdrawn[v.Addr] != nil {
			continue
		}
		out.Addrs = append(out.Addrs, Addr{Link: v.Link.Name, Prefix: netip.PrefixFrom(v.Addr, v.Addr.BitLen())})
	}
	return out
}

// Addr is an address of a link.
type Addr struct {
	Link   string
	Prefix netip.Prefix
}

func (a Addr) String() string { return fmt.Sprintf("%v on %s", a.Prefix, a.Link) }

// Equal reports whether two states ask for the same.
func (s *State) Equal(o *State) bool {
	return slices.Equal(s.Addrs, o.Addrs) && maps.Equal(s.Sysctls, o.Sysctls)
}

// Target is the reconcile.Target of a State. What the machine had already is
// left alone, also by Prune and at the end.
type Target struct {
	j    *Journal
	want atomic.Pointer[State] // of the last Add
}

// NewTarget returns the target that keeps its changes in the journal, with
// those that the journal adopted. Closing the journal undoes them all.
func NewTarget(j *Journal) *Target { return &Target{j: j} }

// String implements reconcile.Target.
func (t *Target) String() string { return "addresses" }

// Add implements reconcile.Target: sysctls before addresses, so that nobody is
// told of an address that is to be kept quiet. One that fails does not hold up
// the others.
func (t *Target) Add(ctx context.Context, _, want *State) error {
	t.j.mu.Lock()
	defer t.j.mu.Unlock()
	if t.j.file == nil {
		return os.ErrClosed
	}
	t.want.Store(want)
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(want.Sysctls)) {
		if !absent(key) {
			errs = append(errs, t.j.setSysctl(key, want.Sysctls[key]))
		}
	}
	n, err := readNetwork()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, a := range want.Addrs {
		errs = append(errs, t.j.addAddr(n, a))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return n.awaitLocal(ctx, want.Addrs)
}

// Prune implements reconcile.Target: it undoes the changes that are not wanted
// any more, the last one first.
func (t *Target) Prune(_ context.Context, _, want *State) error {
	t.j.mu.Lock()
	defer t.j.mu.Unlock()
	if t.j.file == nil {
		return os.ErrClosed
	}
	wanted := want.changes()
	var errs []error
	for _, c := range slices.Backward(slices.Clone(t.j.done)) {
		if !slices.ContainsFunc(wanted, c.about) {
			errs = append(errs, t.j.takeBack(c))
		}
	}
	return errors.Join(errs...)
}

// changes returns what of a journal is wanted.
func (s *State) changes() []change {
	var out []change
	for key := range s.Sysctls {
		out = append(out, change{Sysctl: withSlashes(key)})
	}
	for _, a := range s.Addrs {
		out = append(out, change{Link: a.Link, Addr: a.Prefix.String()})
	}
	return out
}

// Verify implements reconcile.Target.
func (t *Target) Verify(_ context.Context, want *State) error {
	if err := want.verifySysctls(); err != nil {
		return err
	}
	n, err := readNetwork()
	if err != nil {
		return err
	}
	return n.lacks(want.Addrs)
}

// lacks returns an error that wraps reconcile.ErrDrift and names the first
// address that is not there.
func (n *network) lacks(addrs []Addr) error {
	for _, a := range addrs {
		l, ok := n.links[a.Link]
		if !ok {
			return fmt.Errorf("link %s of address %v is gone: %w", a.Link, a.Prefix, reconcile.ErrDrift)
		}
		if !n.addrs[l.Attrs().Index][a.Prefix.Addr().Unmap()] {
			return fmt.Errorf("address %v is gone: %w", a, reconcile.ErrDrift)
		}
	}
	return nil
}
