package fastpath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// An agent's program outlives the process: as a filter, or by the pin of its
// link. Established connections go on while no agent runs.

// Lasting reports whether the program goes on when the process has ended.
func (r *Receiver) Lasting() bool {
	if r.hook == nil || r.hook.how() != "tcx" {
		return r.hook != nil
	}
	return r.pins != nil && !r.pins.Fleeting
}

// GiveWay ends a program whose pins another one has taken over, and its place,
// if they are at one link, which may have another name by now.
func (r *Receiver) GiveWay(next *Receiver) error {
	var err error
	switch {
	case r.hook == nil:
	case next.hook != nil && next.hook.at() == r.hook.at():
		err = r.hook.release()
	default:
		err = r.hook.detach()
	}
	return errors.Join(err, r.objs.Close())
}

// pin returns the path of the pin for a link, "" for none.
func (r *Receiver) pin(index int) string {
	if r.pins == nil || r.pins.restore() != nil {
		r.pins = nil
		return ""
	}
	return filepath.Join(r.pins.dir(), tcPin+strconv.Itoa(index))
}

// repin pins the program again after somebody took the pin away.
func (r *Receiver) repin() bool {
	return r.hook != nil && r.pins != nil && r.pins.restore() == nil && r.hook.repin() == nil && r.Attached()
}

// inherit has the program take what those take that a predecessor left: else
// packets were missed until the balancer has spoken.
func (r *Receiver) inherit() {
	for _, prog := range append(r.pinned(), r.filters()...) {
		_ = r.acceptLike(prog) // of another layout: the agent's socket takes the packets meanwhile
		_ = prog.Close()
	}
}

// pinned returns the programs that pinned links hold.
func (r *Receiver) pinned() (progs []*ebpf.Program) {
	if r.pins == nil {
		return nil
	}
	list, _ := os.ReadDir(r.pins.dir())
	for _, e := range list {
		l, err := link.LoadPinnedLink(filepath.Join(r.pins.dir(), e.Name()), nil)
		if err != nil {
			continue
		}
		if info, err := l.Info(); err == nil {
			progs = appendProgram(progs, info.Program)
		}
		_ = l.Close()
	}
	return progs
}

// filters returns the programs of an agent's filters at the link.
func (r *Receiver) filters() (progs []*ebpf.Program) {
	l, err := netlink.LinkByName(r.link)
	if err != nil {
		return nil
	}
	list, _ := ingressFilters(l.Attrs().Index)
	for _, f := range list {
		if isOurs(f, receiveHandle) {
			progs = appendProgram(progs, ebpf.ProgramID(f.(*netlink.BpfFilter).Id))
		}
	}
	return progs
}

func appendProgram(progs []*ebpf.Program, id ebpf.ProgramID) []*ebpf.Program {
	if prog, err := ebpf.NewProgramFromID(id); err == nil {
		progs = append(progs, prog)
	}
	return progs
}

// acceptLike takes over what another program accepts.
func (r *Receiver) acceptLike(prog *ebpf.Program) error {
	info, err := prog.Info()
	if err != nil {
		return err
	}
	ids, _ := info.MapIDs()
	var errs []error
	for _, id := range ids {
		errs = append(errs, r.acceptFrom(id))
	}
	return errors.Join(errs...)
}

// acceptFrom copies a map of addresses into the one of the same name.
func (r *Receiver) acceptFrom(id ebpf.MapID) error {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return err
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		return err
	}
	into := map[string]*ebpf.Map{"vips": r.objs.Vips, "balancers": r.objs.Balancers}[info.Name]
	if into == nil || m.Type() != into.Type() || m.KeySize() != into.KeySize() || m.ValueSize() != into.ValueSize() {
		return nil
	}
	for _, key := range keysOf(m) {
		if err := into.Put(key, uint8(1)); err != nil {
			return err
		}
	}
	return nil
}

// dropOthers detaches what a predecessor left at other links.
func (r *Receiver) dropOthers() error {
	if r.pins == nil {
		return nil
	}
	mine := tcPin + strconv.Itoa(r.hook.at())
	return r.pins.dropOthers(func(name string) bool { return name == mine })
}

// UnloadReceiver detaches the program that an agent with this state directory
// left, at the link where it is a filter.
func UnloadReceiver(stateDir, link string) error {
	var errs []error
	for _, p := range agentPins.found(stateDir) {
		if !isBPF(p.root) {
			continue
		}
		if _, err := os.Stat(p.dir()); err == nil {
			errs = append(errs, p.dropOthers(func(string) bool { return false }))
		}
		errs = append(errs, p.remove())
	}
	return errors.Join(append(errs, dropReceiverFilters(link))...)
}

func dropReceiverFilters(link string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return nil // its filters went with it
	}
	list, err := ingressFilters(l.Attrs().Index)
	if err != nil {
		return nil // it has no clsact qdisc
	}
	for _, f := range list {
		if !isOurs(f, receiveHandle) {
			continue
		}
		if err := netlink.FilterDel(f); err != nil {
			return fmt.Errorf("fast path: filter on %s: %w", link, err)
		}
	}
	return nil
}
