package fastpath

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hook is a program attached to a link.
type hook struct {
	io.Closer
	how string
}

// attach puts a program at the ingress of a link: by tcx from Linux 6.6 on,
// else as a filter of the clsact qdisc.
// With a pin directory it outlives the process, and takes the place of what a
// predecessor attached.
func attach(name string, prog *ebpf.Program, pins string) (hook, error) {
	index, err := linkIndex(name)
	if err != nil {
		return hook{}, fmt.Errorf("fast path: %w", err)
	}
	pin := filepath.Join(pins, tcPin+strconv.Itoa(index))
	if pins != "" {
		if l, ok := takeLink(pin, prog); ok {
			return hook{l, "tcx"}, nil
		}
	}
	l, err := link.AttachTCX(link.TCXOptions{Program: prog, Interface: index, Attach: ebpf.AttachTCXIngress})
	if err == nil && pins != "" {
		err = l.Pin(pin)
	}
	if err == nil {
		return hook{l, "tcx"}, nil
	}
	if !errors.Is(err, ebpf.ErrNotSupported) {
		return hook{}, fmt.Errorf("fast path: tcx on %s: %w", name, err)
	}
	f, err := attachFilter(index, prog)
	if err != nil {
		return hook{}, fmt.Errorf("fast path: clsact on %s: %w", name, err)
	}
	return hook{f, "clsact"}, nil
}

// attachXDP puts a program in the driver of a link: never in the generic hook,
// which is no faster than TC.
func attachXDP(name string, prog *ebpf.Program, pins string) (hook, error) {
	index, err := linkIndex(name)
	if err != nil {
		return hook{}, fmt.Errorf("fast path: %w", err)
	}
	pin := filepath.Join(pins, xdpPin+strconv.Itoa(index))
	if l, ok := takeLink(pin, prog); ok {
		return hook{l, "xdp"}, nil
	}
	l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: index, Flags: link.XDPDriverMode})
	if err == nil {
		err = l.Pin(pin)
	}
	if err != nil {
		return hook{}, fmt.Errorf("fast path: native XDP on %s: %w (does its driver have it, and is no other program there?)", name, err)
	}
	return hook{l, "xdp"}, nil
}

// PassXDP puts a program that passes everything at a link: a veth takes
// packets from its peer's XDP only when it has one itself.
func PassXDP(name string) (io.Closer, error) {
	index, err := linkIndex(name)
	if err != nil {
		return nil, fmt.Errorf("fast path: %w", err)
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R0, 2 /* XDP_PASS */), asm.Return(),
	}})
	if err != nil {
		return nil, fmt.Errorf("fast path: %w", err)
	}
	defer prog.Close()
	l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: index, Flags: link.XDPDriverMode})
	if err != nil {
		return nil, fmt.Errorf("fast path: native XDP on %s: %w", name, err)
	}
	return l, nil
}

// filter is a program as a tc filter; Close removes it, unless it is to stay.
type filter struct {
	*netlink.BpfFilter
	stay bool
}

// handle of our filter, so that a later start replaces what a killed one left.
const filterHandle, filterPriority = 0xca91, 0xca91

func attachFilter(index int, prog *ebpf.Program) (*filter, error) {
	qdisc := &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	f := &netlink.BpfFilter{Fd: prog.FD(), Name: "caplance", DirectAction: true, FilterAttrs: netlink.FilterAttrs{
		LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: filterHandle, Priority: filterPriority, Protocol: unix.ETH_P_ALL,
	}}
	if err := netlink.FilterReplace(f); err != nil {
		return nil, err
	}
	return &filter{BpfFilter: f}, nil
}

// dropFilters removes what a predecessor attached as a filter: it outlives the
// process without a pin.
func dropFilters() error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("fast path: links: %w", err)
	}
	var errs []error
	for _, l := range links {
		list, err := netlink.FilterList(l, netlink.HANDLE_MIN_INGRESS)
		if err != nil {
			continue // it has no clsact qdisc
		}
		for _, f := range list {
			if a := f.Attrs(); a.Handle != filterHandle || a.Priority != filterPriority || f.Type() != "bpf" {
				continue
			}
			if err := netlink.FilterDel(f); err != nil {
				errs = append(errs, fmt.Errorf("fast path: filter on %s: %w", l.Attrs().Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// Close removes the filter. The qdisc stays: others may use it.
func (f *filter) Close() error {
	if f.stay {
		return nil
	}
	return netlink.FilterDel(f.BpfFilter)
}
