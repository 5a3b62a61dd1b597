package fastpath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/rtnl"
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hook is a program attached to a link.
type hook interface {
	// detach takes the program off the link.
	detach() error
	// release leaves it to a successor, if it is pinned or needs no pin.
	release() error
	// update puts another program in the place of the attached one, at once.
	update(prog *ebpf.Program) error
	// intact reports whether the program is still attached.
	intact() bool
	// how names the kind of attachment.
	how() string
	// at returns the index of the link.
	at() int
	// repin makes it outlive the process again.
	repin() error
}

// attachTC puts a program at the ingress of a link: by tcx from Linux 6.6 on,
// else as a filter of the clsact qdisc, with a handle. With a pin the link
// outlives the process, and takes the place of what a predecessor attached.
func attachTC(l core.Link, prog *ebpf.Program, handle uint32, pin string) (hook, error) {
	if pin != "" {
		if old, ok := takeLink(pin, prog); ok {
			return &linkHook{old, l.Index, "tcx", pin}, nil
		}
	}
	if err := featureTCX.Have(); errors.Is(err, ebpf.ErrNotSupported) {
		return attachClsact(l, prog, handle)
	}
	tcx, err := link.AttachTCX(link.TCXOptions{Program: prog, Interface: l.Index, Attach: ebpf.AttachTCXIngress})
	if err == nil && pin != "" {
		if err = pinNew(tcx, pin); err != nil {
			err = errors.Join(err, tcx.Detach(), tcx.Close()) // or the next try finds it in its way
		}
	}
	if err == nil {
		return &linkHook{tcx, l.Index, "tcx", pin}, nil
	}
	return nil, fmt.Errorf("fast path: tcx on %s: %w", l.Name, err)
}

func attachClsact(l core.Link, prog *ebpf.Program, handle uint32) (hook, error) {
	f, err := attachFilter(l.Index, prog, handle)
	if err != nil {
		return nil, fmt.Errorf("fast path: clsact on %s: %w", l.Name, err)
	}
	return f, nil
}

// attachXDP puts a program in the driver of a link: never in the generic hook,
// which is no faster than TC.
func attachXDP(l core.Link, prog *ebpf.Program, pin string) (hook, error) {
	if old, ok := takeLink(pin, prog); ok {
		return &linkHook{old, l.Index, "xdp", pin}, nil
	}
	xdp, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: l.Index, Flags: link.XDPDriverMode})
	if err == nil {
		if err = pinNew(xdp, pin); err != nil {
			err = errors.Join(err, xdp.Detach(), xdp.Close())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("fast path: native XDP on %s: %w (does its driver have it, and is no other program there?)", l.Name, err)
	}
	return &linkHook{xdp, l.Index, "xdp", pin}, nil
}

// pinNew pins a link in the place of one whose device is gone.
func pinNew(l link.Link, pin string) error {
	_ = os.Remove(pin)
	return l.Pin(pin)
}

// linkHook is a program attached by a BPF link.
type linkHook struct {
	link.Link
	index int
	kind  string
	pin   string
}

func (h *linkHook) how() string                     { return h.kind }
func (h *linkHook) at() int                         { return h.index }
func (h *linkHook) update(prog *ebpf.Program) error { return h.Link.Update(prog) }

func (h *linkHook) release() error { return h.Link.Close() }

// detach does so even while another process has the link.
func (h *linkHook) detach() error {
	if h.pin != "" {
		_ = os.Remove(h.pin)
	}
	_ = h.Link.Detach() // fails when its device is gone; before Linux 5.9 closing must do
	return h.Link.Close()
}

// intact reports whether the link has its device and its pin: the kernel takes
// the device away from the link of one that was deleted.
func (h *linkHook) intact() bool {
	info, err := h.Link.Info()
	if err != nil {
		return false
	}
	index := uint32(0)
	if t := info.TCX(); t != nil {
		index = t.Ifindex
	} else if x := info.XDP(); x != nil {
		index = x.Ifindex
	}
	if int(index) != h.index {
		return false
	}
	if h.pin == "" {
		return true
	}
	_, err = os.Stat(h.pin)
	return err == nil
}

// repin pins the link again after its file system was unmounted.
func (h *linkHook) repin() error {
	_ = h.Link.Unpin() // it remembers a file that is gone
	return h.Link.Pin(h.pin)
}

// filter is a program as a tc filter.
type filter struct {
	*netlink.BpfFilter
	program ebpf.ProgramID
}

// Handles of the filters, so that a later start replaces what a killed one left.
// A balancer and an agent may be at one link.
const balanceHandle, receiveHandle = 0xca91, 0xca92

func attachFilter(index int, prog *ebpf.Program, handle uint32) (*filter, error) {
	qdisc := &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	list, err := ingressFilters(index)
	if err != nil {
		return nil, err
	}
	f := &filter{BpfFilter: &netlink.BpfFilter{Name: "caplance", DirectAction: true, FilterAttrs: netlink.FilterAttrs{
		LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: handle, Priority: priority(list, handle), Protocol: unix.ETH_P_ALL,
	}}}
	return f, f.update(prog)
}

// priority returns that of a filter with a handle: the one it has, or the first
// that is to be had. Filters that come first may end the chain for all packets, as
// most do; ours does for those that it forwards.
func priority(list []netlink.Filter, handle uint32) uint16 {
	free := uint16(1)
	for _, f := range list { // in their order
		a := f.Attrs()
		if isOurs(f, handle) {
			return a.Priority
		}
		if a.Priority == free && (f.Type() != "bpf" || a.Protocol != unix.ETH_P_ALL) { // which cannot share it
			free++
		}
	}
	return free
}

func (f *filter) how() string  { return "clsact" }
func (f *filter) at() int      { return f.LinkIndex }
func (f *filter) repin() error { return nil }

// release does nothing: a filter outlives its process.
func (f *filter) release() error { return nil }

// update puts a program in the place of the filter's, at once.
func (f *filter) update(prog *ebpf.Program) error {
	info, err := prog.Info()
	if err != nil {
		return err
	}
	f.Fd = prog.FD()
	f.program, _ = info.ID()
	return netlink.FilterReplace(f.BpfFilter)
}

func (f *filter) intact() bool {
	list, err := ingressFilters(f.LinkIndex)
	return err == nil && slices.ContainsFunc(list, func(have netlink.Filter) bool {
		return isOurs(have, f.Handle) && ebpf.ProgramID(have.(*netlink.BpfFilter).Id) == f.program
	})
}

func ingressFilters(index int) ([]netlink.Filter, error) {
	l := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: index}} // nothing else of it is asked for
	return rtnl.Dump(func() ([]netlink.Filter, error) { return netlink.FilterList(l, netlink.HANDLE_MIN_INGRESS) })
}

func isOurs(f netlink.Filter, handle uint32) bool {
	bpf, ok := f.(*netlink.BpfFilter)
	return ok && bpf.Handle == handle
}

// detach removes the filter. The qdisc stays: others may use it.
func (f *filter) detach() error {
	err := netlink.FilterDel(f.BpfFilter)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
		return nil // it, its link or its qdisc is gone already
	}
	return err
}

// dropFilters removes the filters whose programs work on these flows, which
// predecessors attached: they outlive their process without a pin. Other filters
// may be those of another balancer on this machine.
func dropFilters(flows *ebpf.Map) error {
	return dropFiltersBut(flows, func(int) bool { return false })
}

// dropFiltersBut leaves those at links that keep says yes to.
func dropFiltersBut(flows *ebpf.Map, keep func(index int) bool) error {
	links, err := rtnl.Dump(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("fast path: links: %w", err)
	}
	var errs []error
	for _, l := range links {
		list, err := ingressFilters(l.Attrs().Index)
		if err != nil {
			continue // it has no clsact qdisc
		}
		for _, f := range list {
			if bpf, ok := f.(*netlink.BpfFilter); !ok || !isOurs(f, balanceHandle) || keep(bpf.LinkIndex) || !uses(bpf, flows) {
				continue
			}
			if err := netlink.FilterDel(f); err != nil {
				errs = append(errs, fmt.Errorf("fast path: filter on %s: %w", l.Attrs().Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// uses reports whether a filter's program works on a map.
func uses(f *netlink.BpfFilter, m *ebpf.Map) bool {
	prog, err := ebpf.NewProgramFromID(ebpf.ProgramID(f.Id))
	if err != nil {
		return false
	}
	defer prog.Close()
	info, err := prog.Info()
	if err != nil {
		return false
	}
	have, err := m.Info()
	if err != nil {
		return false
	}
	id, _ := have.ID()
	maps, _ := info.MapIDs()
	return slices.Contains(maps, id)
}

// hookKey is one place where a program is attached.
type hookKey struct {
	index int
	xdp   bool
}

func (k hookKey) pin() string {
	if k.xdp {
		return xdpPin + strconv.Itoa(k.index)
	}
	return tcPin + strconv.Itoa(k.index)
}

// programs returns what belongs at a link, and where: nothing at one that this
// kernel shows no packets of. XDP knows Ethernet only.
func (g *generation) programs(l core.Link) map[hookKey]*ebpf.Program {
	if Attachable(l) != nil {
		return nil
	}
	if l.Bare {
		return map[hookKey]*ebpf.Program{{l.Index, false}: g.bare}
	}
	if g.xdp == nil {
		return map[hookKey]*ebpf.Program{{l.Index, false}: g.tc}
	}
	return map[hookKey]*ebpf.Program{{l.Index, false}: g.tc, {l.Index, true}: g.xdp}
}

// attach puts the generation's programs at the ingress of every link that is
// there, in the place of those of the generation before. Links that come later
// are attached to when they do.
func (b *Balancer) attach(g *generation, links []core.Link) error {
	errs := []error{g.setMACs(links)}
	for _, l := range links {
		if l.Index == 0 {
			continue
		}
		for k, prog := range g.programs(l) {
			errs = append(errs, b.attachOne(prog, l, k))
		}
	}
	return errors.Join(errs...)
}

func (b *Balancer) attachOne(prog *ebpf.Program, l core.Link, k hookKey) error {
	if h := b.hooks[k]; h != nil {
		if (h.intact() || h.repin() == nil && h.intact()) && h.update(prog) == nil {
			return nil
		}
		_ = h.detach()
		delete(b.hooks, k)
	}
	pin := filepath.Join(b.pins.dir(), k.pin())
	var h hook
	var err error
	if k.xdp {
		h, err = attachXDP(l, prog, pin)
	} else {
		h, err = attachTC(l, prog, balanceHandle, pin)
	}
	if err == nil {
		b.hooks[k] = h
	}
	return err
}

// detach takes the programs off the places that keep says no to.
func (b *Balancer) detach(keep func(hookKey) bool) error {
	var errs []error
	for k, h := range b.hooks {
		if keep(k) {
			continue
		}
		errs = append(errs, h.detach())
		delete(b.hooks, k)
	}
	return errors.Join(errs...)
}
