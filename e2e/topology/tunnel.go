package topology

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// Kinds of tunnels, whose links have no Ethernet header.
const (
	WireGuard Kind = "wireguard"
	GRE       Kind = "gre"
	IPIP      Kind = "ipip" // IPv4 in IPv4 only
)

// End is a host's end of a tunnel.
type End struct {
	*Host
	Link  string         // its name
	Outer netip.Addr     // of the host, between which the tunnel is
	Inner []netip.Prefix // addresses of the link
}

// Tunnel joins two hosts. A kernel built without the kind refuses it with
// EOPNOTSUPP.
func Tunnel(k Kind, a, b End) error {
	if k == WireGuard {
		return wireGuard(a, b)
	}
	for _, e := range [][2]End{{a, b}, {b, a}} {
		own, peer := e[0], e[1]
		attrs := netlink.LinkAttrs{Name: own.Link}
		var link netlink.Link = &netlink.Gretun{LinkAttrs: attrs, Local: own.Outer.AsSlice(), Remote: peer.Outer.AsSlice(), PMtuDisc: 1, Ttl: 64}
		if k == IPIP {
			link = &netlink.Iptun{LinkAttrs: attrs, Local: own.Outer.AsSlice(), Remote: peer.Outer.AsSlice(), PMtuDisc: 1, Ttl: 64}
		}
		if err := own.addLink(link); err != nil {
			return err
		}
		if err := own.switchOn(own.Link, own.Inner); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) addLink(l netlink.Link) error {
	return h.Do(func() error {
		if err := netlink.LinkAdd(l); err != nil {
			return fmt.Errorf("%s %s: %w", l.Type(), l.Attrs().Name, err)
		}
		return nil
	})
}

// wireGuard makes a tunnel whose ends take everything from each other.
func wireGuard(a, b End) error {
	keys := map[*Host]wgtypes.Key{}
	for _, e := range []End{a, b} {
		key, err := wgtypes.GeneratePrivateKey()
		if err != nil {
			return fmt.Errorf("wireguard: %w", err)
		}
		keys[e.Host] = key
	}
	all := []net.IPNet{{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, {IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}}
	port := 51000 + int(a.Inner[0].Addr().As4()[2]) // several may end in one host
	for _, e := range [][2]End{{a, b}, {b, a}} {
		own, peer := e[0], e[1]
		if err := own.addLink(&netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: own.Link}}); err != nil {
			return err
		}
		key := keys[own.Host]
		cfg := wgtypes.Config{PrivateKey: &key, ListenPort: &port, Peers: []wgtypes.PeerConfig{{
			PublicKey: keys[peer.Host].PublicKey(), AllowedIPs: all,
			Endpoint: net.UDPAddrFromAddrPort(netip.AddrPortFrom(peer.Outer, uint16(port))),
		}}}
		err := own.Do(func() error {
			c, err := wgctrl.New()
			if err != nil {
				return err
			}
			defer c.Close()
			return c.ConfigureDevice(own.Link, cfg)
		})
		if err != nil {
			return fmt.Errorf("wireguard %s: %w", own.Link, err)
		}
		if err := own.switchOn(own.Link, own.Inner); err != nil {
			return err
		}
	}
	return nil
}
