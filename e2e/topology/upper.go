package topology

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Kind is a kind of link that lies above another one.
type Kind string

// The kinds. A kernel built without one refuses it with EOPNOTSUPP.
const (
	VLAN    Kind = "vlan"    // the frames with the tag 7, which switches pass as they are
	QinQ    Kind = "qinq"    // the same within a service tag (IEEE 802.1ad)
	MACVLAN Kind = "macvlan" // a link-layer address of its own
	Bridge  Kind = "bridge"  // the link is its port
	Bond    Kind = "bond"    // active-backup; the link is its first member
)

// UpperName returns the name of the link above another one.
func UpperName(link string) string { return link + ".7" }

// AddUpper puts a link above another one, with addresses.
func (h *Host) AddUpper(k Kind, link string, addrs ...netip.Prefix) error {
	if k == QinQ {
		if err := h.AddVLAN(link, link+".s", 100, netlink.VLAN_PROTOCOL_8021AD); err != nil {
			return err
		}
		if err := h.AddVLAN(link+".s", UpperName(link), 7, netlink.VLAN_PROTOCOL_8021Q); err != nil {
			return err
		}
		return h.switchOn(UpperName(link), addrs)
	}
	err := h.Do(func() error {
		lower, err := netlink.LinkByName(link)
		if err != nil {
			return fmt.Errorf("link %s: %w", link, err)
		}
		if err := upper(k, UpperName(link), lower); err != nil {
			return fmt.Errorf("%s on %s: %w", k, link, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return h.switchOn(UpperName(link), addrs)
}

func upper(k Kind, name string, lower netlink.Link) error {
	attrs := netlink.LinkAttrs{Name: name, MTU: lower.Attrs().MTU}
	switch k {
	case Bridge:
		l := &netlink.Bridge{LinkAttrs: attrs}
		if err := netlink.LinkAdd(l); err != nil {
			return err
		}
		return netlink.LinkSetMaster(lower, l)
	case Bond:
		l := netlink.NewLinkBond(attrs)
		l.Mode, l.Miimon = netlink.BOND_MODE_ACTIVE_BACKUP, 20
		if err := netlink.LinkAdd(l); err != nil {
			return err
		}
		return addMember(l, lower)
	case MACVLAN:
		attrs.ParentIndex = lower.Attrs().Index
		return netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE})
	}
	attrs.ParentIndex = lower.Attrs().Index
	return netlink.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: 7})
}

// addMember adds a link to a bond; it has to be down for that.
func addMember(bond, member netlink.Link) error {
	return errors.Join(netlink.LinkSetDown(member), netlink.LinkSetMaster(member, bond), netlink.LinkSetUp(member))
}

// AddMember adds another link to the bond above one.
func (h *Host) AddMember(link, member string) error {
	return h.Do(func() error {
		bond, err := netlink.LinkByName(UpperName(link))
		if err != nil {
			return err
		}
		l, err := netlink.LinkByName(member)
		if err != nil {
			return err
		}
		return addMember(bond, l)
	})
}

// AddVLAN puts a VLAN's link above one.
func (h *Host) AddVLAN(link, name string, id int, protocol netlink.VlanProtocol) error {
	err := h.Do(func() error {
		lower, err := netlink.LinkByName(link)
		if err != nil {
			return fmt.Errorf("link %s: %w", link, err)
		}
		attrs := netlink.LinkAttrs{Name: name, ParentIndex: lower.Attrs().Index}
		if err := netlink.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: id, VlanProtocol: protocol}); err != nil {
			return fmt.Errorf("VLAN %d on %s: %w", id, link, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return h.SetUp(name, true)
}
