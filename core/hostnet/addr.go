package hostnet

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// AddAddr puts the address on the link. An address that the link already has,
// whatever its prefix length, is left as it is, now and at Close. IPv6
// addresses skip duplicate address detection, for several backends hold one
// VIP, and are deprecated (RFC 6724 rule 3), so that the machine does not talk
// from them of its own accord.
func (j *Journal) AddAddr(link string, p netip.Prefix) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return os.ErrClosed
	}
	l, err := netlink.LinkByName(link)
	if err != nil {
		return fmt.Errorf("link %s: %w", link, err)
	}
	has, err := hasAddr(l, p.Addr())
	if err != nil || has {
		return err
	}
	return j.record(change{Link: link, Addr: p.String()}, func() error {
		err := netlink.AddrAdd(l, newAddr(p))
		switch {
		case errors.Is(err, unix.EACCES) && p.Addr().Is6():
			return fmt.Errorf("address %s on %s: IPv6 is off there, set net.ipv6.conf.%[2]s.disable_ipv6=0: %w", p, link, err)
		case err != nil:
			return fmt.Errorf("address %s on %s: %w", p, link, err)
		}
		return nil
	})
}

// RemoveAddr takes an address off that AddAddr put there; any other stays.
func (j *Journal) RemoveAddr(link string, p netip.Prefix) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	i := slices.Index(j.done, change{Link: link, Addr: p.String()})
	if i < 0 {
		return nil
	}
	if err := j.done[i].undo(); err != nil {
		return err
	}
	// The file keeps the line: undoing it once more does nothing.
	j.done = slices.Delete(j.done, i, i+1)
	return nil
}

func hasAddr(l netlink.Link, a netip.Addr) (bool, error) {
	addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return false, fmt.Errorf("addresses of %s: %w", l.Attrs().Name, err)
	}
	for _, have := range addrs {
		if ip, ok := netip.AddrFromSlice(have.IP); ok && ip.Unmap() == a.Unmap() {
			return true, nil
		}
	}
	return false, nil
}

func newAddr(p netip.Prefix) *netlink.Addr {
	a := p.Addr().Unmap()
	out := &netlink.Addr{IPNet: &net.IPNet{
		IP:   a.AsSlice(),
		Mask: net.CIDRMask(p.Bits(), a.BitLen()),
	}}
	if a.Is6() {
		out.Flags = unix.IFA_F_NODAD
		out.ValidLft, out.PreferedLft = math.MaxUint32, 0 // forever, deprecated
	}
	return out
}

// removeAddr takes the address off again; an address or a link that is gone
// already is as good.
func removeAddr(link, addr string) error {
	p, err := netip.ParsePrefix(addr)
	if err != nil {
		return err
	}
	l, err := netlink.LinkByName(link)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return err
	}
	err = netlink.AddrDel(l, newAddr(p))
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}
