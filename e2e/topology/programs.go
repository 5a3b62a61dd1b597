package topology

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// DetachPrograms takes the BPF programs off a link of the host's, whichever way they
// are attached.
func (h *Host) DetachPrograms(name string) error {
	return h.Do(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("link %s: %w", name, err)
		}
		at, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: ebpf.AttachTCXIngress})
		if err == nil && len(at.Programs) > 0 {
			id, _ := at.Programs[0].LinkID()
			return detachLink(id)
		}
		if xdp := l.Attrs().Xdp; xdp != nil && xdp.Attached {
			return detachXDP(l, ebpf.ProgramID(xdp.ProgId))
		}
		filters, err := netlink.FilterList(l, netlink.HANDLE_MIN_INGRESS)
		if err != nil || len(filters) == 0 {
			return fmt.Errorf("nothing is attached to %s: %w", name, err)
		}
		for _, f := range filters {
			err = errors.Join(err, netlink.FilterDel(f))
		}
		return err
	})
}

// detachXDP takes the program off a link, by its BPF link where it has one.
func detachXDP(l netlink.Link, program ebpf.ProgramID) error {
	for i := new(link.Iterator); i.Next(); {
		info, err := i.Link.Info()
		if err == nil && info.Type == link.XDPType && info.Program == program {
			defer i.Close()
			return i.Link.Detach()
		}
	}
	return netlink.LinkSetXdpFd(l, -1)
}

func detachLink(id link.ID) error {
	l, err := link.NewFromID(id)
	if err != nil {
		return err
	}
	return errors.Join(l.Detach(), l.Close())
}
