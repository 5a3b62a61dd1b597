package topology

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Kind is a kind of link that lies above another one.
type Kind string

// The kinds. A kernel built without one refuses it with EOPNOTSUPP.
const (
	VLAN    Kind = "vlan"    // the frames with the tag 7, which switches pass as they are
	MACVLAN Kind = "macvlan" // a link-layer address of its own
)

// UpperName is the name of the link above another one.
func UpperName(link string) string { return link + ".7" }

// AddUpper puts a link above another one, with addresses.
func (h *Host) AddUpper(k Kind, link string, addrs ...netip.Prefix) error {
	err := h.Do(func() error {
		lower, err := netlink.LinkByName(link)
		if err != nil {
			return fmt.Errorf("link %s: %w", link, err)
		}
		attrs := netlink.LinkAttrs{Name: UpperName(link), ParentIndex: lower.Attrs().Index}
		var upper netlink.Link = &netlink.Vlan{LinkAttrs: attrs, VlanId: 7}
		if k == MACVLAN {
			upper = &netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}
		}
		if err := netlink.LinkAdd(upper); err != nil {
			return fmt.Errorf("%s on %s: %w", k, link, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return h.start(UpperName(link), addrs)
}
