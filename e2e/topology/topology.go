// Package topology builds networks of namespaces for the end-to-end tests, the
// demo and the benchmarks: hosts, switches and the links between them. It
// talks netlink and executes no other program.
//
//	lan, err := topology.New("demo")
//	defer lan.Close()
//	sw, err := lan.Switch("sw")
//	client, err := lan.Host("client")
//	err = sw.Attach(client, "eth0", netip.MustParsePrefix("10.77.0.100/24"))
package topology

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Net is a set of namespaces that live and end together.
type Net struct {
	prefix string
	hosts  []*Host
	root   netns.NsHandle
	left   []error // of killed processes
}

// Host is one network namespace, named in /run/netns so that nsenter finds it.
type Host struct {
	Name string // as given
	NS   string // its name in /run/netns

	Mounts *Mounts // of programs that are started from now on; nil: the test's

	net *Net
	ns  netns.NsHandle
}

// Switch is a host whose bridge joins the links attached to it.
type Switch struct {
	*Host
	MTU    int // of the links that are attached from now on, bytes; 0: 1500
	bridge netlink.Link
	ports  int
}

// New starts an empty network. The prefix, the process id and a random number
// name its namespaces; those of processes that were killed are removed.
func New(prefix string) (*Net, error) {
	if err := shareNames(); err != nil {
		return nil, fmt.Errorf("names of namespaces: %w", err)
	}
	left := reclaim(prefix)
	root, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("current netns: %w", err)
	}
	return &Net{prefix: newPrefix(prefix), root: root, left: left}, nil
}

// Leftovers returns what of killed processes could not be removed, and is in
// nobody's way.
func (n *Net) Leftovers() []error { return n.left }

// Host adds a namespace with lo up.
func (n *Net) Host(name string) (h *Host, err error) {
	h = &Host{Name: name, NS: n.prefix + "-" + name, net: n}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if h.ns, err = newNamed(h.NS); err != nil {
		return nil, err
	}
	n.hosts = append(n.hosts, h)
	return h, h.Do(func() error {
		// Addresses are unique here by construction; detection would only delay.
		if err := h.Sysctl("net.ipv6.conf.default.accept_dad", "0"); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
}

// Switch adds a host with a bridge.
func (n *Net) Switch(name string) (*Switch, error) {
	h, err := n.Host(name)
	if err != nil {
		return nil, err
	}
	s := &Switch{Host: h, bridge: &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}}
	return s, h.Do(func() error {
		if err := netlink.LinkAdd(s.bridge); err != nil {
			return fmt.Errorf("bridge: %w", err)
		}
		if err := netlink.LinkSetUp(s.bridge); err != nil {
			return err
		}
		return s.BridgeFilters(false) // a switch has no netfilter
	})
}

// BridgeFilters has br_netfilter, where it is loaded, take each frame on a bridge
// of the host's for a packet to filter, or not. To ask for it where it is not is
// an error.
func (h *Host) BridgeFilters(on bool) error {
	value := map[bool]string{true: "1", false: "0"}[on]
	for _, tables := range []string{"iptables", "ip6tables", "arptables"} {
		err := h.Sysctl("net.bridge.bridge-nf-call-"+tables, value)
		if err != nil && (on || !errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	return nil
}

// Attach links a host to the switch by a veth pair: link is its name in the
// host.
func (s *Switch) Attach(h *Host, link string, addrs ...netip.Prefix) error {
	port := fmt.Sprintf("port%d", s.ports)
	s.ports++
	err := s.Do(func() error {
		pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: port, MTU: s.MTU}, PeerName: link, PeerNamespace: netlink.NsFd(h.ns), PeerMTU: uint32(s.MTU)}
		if err := netlink.LinkAdd(pair); err != nil {
			return fmt.Errorf("veth %s-%s: %w", s.Name, h.Name, err)
		}
		if err := netlink.LinkSetMaster(pair, s.bridge); err != nil {
			return fmt.Errorf("veth %s-%s: %w", s.Name, h.Name, err)
		}
		return netlink.LinkSetUp(pair)
	})
	if err != nil {
		return err
	}
	if err := h.switchOn(link, addrs); err != nil {
		return err
	}
	return h.awaitRunning(link, addrs)
}

// switchOn switches a link on and gives it its addresses.
func (h *Host) switchOn(link string, addrs []netip.Prefix) error {
	if err := h.SetUp(link, true); err != nil {
		return err
	}
	for _, a := range addrs {
		if err := h.AddAddr(link, a); err != nil {
			return err
		}
	}
	return nil
}

// Ports returns how many hosts were attached.
func (s *Switch) Ports() int { return s.ports }

// Do runs fn on a thread inside the host's namespace. Sockets that fn opens
// stay there; goroutines that it starts do not.
func (h *Host) Do(fn func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := netns.Get()
	if err != nil {
		return fmt.Errorf("current netns: %w", err)
	}
	defer before.Close()
	if err := netns.Set(h.ns); err != nil {
		return fmt.Errorf("netns %s: %w", h.NS, err)
	}
	err = fn()
	if back := netns.Set(before); back != nil {
		panic(fmt.Sprintf("return from netns %s: %v", h.NS, back)) // the thread is lost
	}
	if err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	return nil
}

// SetUp switches a link on or off.
func (h *Host) SetUp(link string, up bool) error {
	return h.Do(func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return fmt.Errorf("link %s: %w", link, err)
		}
		if up {
			return netlink.LinkSetUp(l)
		}
		return netlink.LinkSetDown(l)
	})
}

// SetMTU changes a link's MTU, bytes.
func (h *Host) SetMTU(link string, mtu int) error {
	return h.Do(func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return fmt.Errorf("link %s: %w", link, err)
		}
		return netlink.LinkSetMTU(l, mtu)
	})
}

// AddAddr puts an address on a link.
func (h *Host) AddAddr(link string, p netip.Prefix) error {
	return h.Do(func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return fmt.Errorf("link %s: %w", link, err)
		}
		addr := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(l, addr); err != nil {
			return fmt.Errorf("address %v on %s: %w", p, link, err)
		}
		return nil
	})
}

// Route sends a destination, 0.0.0.0/0 or ::/0 for all, by way of a gateway.
func (h *Host) Route(to netip.Prefix, gateway netip.Addr) error {
	return h.Do(func() error {
		if err := netlink.RouteAdd(&netlink.Route{Dst: ipNet(to), Gw: gateway.AsSlice()}); err != nil {
			return fmt.Errorf("route to %v: %w", to, err)
		}
		return nil
	})
}

// Sysctl sets a sysctl by its dotted name.
func (h *Host) Sysctl(name, value string) error {
	return h.Do(func() error {
		path := "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
		if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
			return fmt.Errorf("sysctl: %w", err)
		}
		return nil
	})
}

// Close removes all namespaces. Processes still in them keep them alive
// unnamed; stop those first.
func (n *Net) Close() (err error) {
	for _, h := range n.hosts {
		err = errors.Join(err, h.ns.Close(), removeName(h.NS))
	}
	n.hosts = nil
	return errors.Join(err, n.root.Close())
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
