package netmon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/core/nettest/slow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start observes the calling thread's namespace.
func start(t *testing.T) *Monitor {
	t.Helper()
	m, err := Open(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	follow(t, m)
	return m
}

func follow(t *testing.T, m *Monitor) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		m.Close()
	})
}

// until waits for a condition, which is looked at after every change.
func until(t *testing.T, m *Monitor, what string, ok func() bool) {
	t.Helper()
	timeout := time.After(slow.Time(10 * time.Second))
	for {
		changed := m.Changed()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("timed out: %s; network %+v, paths %+v", what, m.Network(), m.Paths())
		}
	}
}

// must fails the test with the first error.
func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	return l
}

func addr(prefix string) *netlink.Addr {
	p := netip.MustParsePrefix(prefix)
	a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

// veth makes ext0 ── far0, both up.
func veth(t *testing.T) netlink.Link {
	t.Helper()
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "ext0"}, PeerName: "far0"}
	must(t, netlink.LinkAdd(v))
	must(t, netlink.LinkSetUp(get(t, "far0")), netlink.LinkSetUp(get(t, "ext0")))
	return get(t, "ext0")
}

func TestLinksAndAddresses(t *testing.T) {
	nettest.NetNS(t)
	m := start(t)
	if _, ok := m.Network().LinkByName("lo"); !ok {
		t.Fatalf("lo is not known: %+v", m.Network())
	}
	link := func() Link { l, _ := m.Network().LinkByName("ext0"); return l }
	l := veth(t)
	until(t, m, "ext0 runs", func() bool { return link().Up && link().Running })
	if got := link(); got.Index != l.Attrs().Index || got.MAC != MAC(l.Attrs().HardwareAddr) || got.MTU != 1500 || got.Type != "veth" || !got.Ethernet {
		t.Errorf("ext0 is %+v", got)
	}
	for _, p := range []string{"10.0.0.1/24", "2001:db8:1::1/64"} {
		ip := addr(p).IP
		a, _ := netip.AddrFromSlice(ip)
		must(t, netlink.AddrAdd(l, addr(p)))
		until(t, m, p+" is there", func() bool { return m.Network().Has(a) })
		must(t, netlink.AddrDel(l, addr(p)))
		until(t, m, p+" is gone", func() bool { return !m.Network().Has(a) })
	}
	must(t, netlink.AddrAdd(l, addr("10.0.0.1/24")), netlink.AddrAdd(l, addr("2001:db8:1::1/64")))
	until(t, m, "both addresses", func() bool { return len(m.Network().Connected(netip.IPv4Unspecified())) >= 5 })
	epoch := link().Epoch
	must(t, netlink.LinkSetDown(l))
	until(t, m, "down, and IPv6 gone", func() bool {
		return !link().Up && !link().Running && !m.Network().Has(netip.MustParseAddr("2001:db8:1::1")) && m.Network().Has(netip.MustParseAddr("10.0.0.1"))
	})
	must(t, netlink.LinkSetMTU(l, 1400), netlink.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 0, 9}))
	until(t, m, "MTU and MAC", func() bool { return link().MTU == 1400 && link().MAC == MAC{2, 0, 0, 0, 0, 9} })
	must(t, netlink.LinkSetUp(l))
	until(t, m, "up again", func() bool { return link().Running && link().Epoch > epoch })
	must(t, netlink.LinkSetDown(l), netlink.LinkSetName(l, "ext9"), netlink.LinkSetUp(l))
	until(t, m, "renamed", func() bool {
		got, ok := m.Network().LinkByName("ext9")
		return ok && got.Index == l.Attrs().Index && link() == Link{}
	})
	must(t, netlink.LinkDel(l))
	until(t, m, "deleted", func() bool {
		_, ok := m.Network().Link(l.Attrs().Index)
		return !ok && len(m.Network().Addrs) == 2 // those of lo
	})
	l = veth(t)
	until(t, m, "made anew", func() bool { return link().Index == l.Attrs().Index && link().Running })
}

func TestChangesAreCoalesced(t *testing.T) {
	nettest.NetNS(t)
	m := start(t)
	l := veth(t)
	until(t, m, "ext0 runs", func() bool { got, _ := m.Network().LinkByName("ext0"); return got.Running })
	changes := 0
	for i := range 200 {
		must(t, netlink.AddrAdd(l, addr(fmt.Sprintf("10.1.0.%d/32", i))))
	}
	until(t, m, "all addresses", func() bool { changes++; return m.Network().Has(netip.MustParseAddr("10.1.0.199")) })
	if changes > 50 {
		t.Errorf("%d changes were told for 200 addresses", changes)
	}
}

func TestLostEventsAreMadeUpFor(t *testing.T) {
	nettest.NetNS(t)
	l := veth(t)
	m, err := open(slog.New(slog.DiscardHandler), 4096)
	must(t, err)
	for i := range 500 { // nobody reads yet: the buffer overflows
		must(t, netlink.AddrAdd(l, addr(fmt.Sprintf("10.1.%d.%d/32", i/250, i%250))))
	}
	must(t, netlink.AddrDel(l, addr("10.1.0.7/32")))
	follow(t, m)
	until(t, m, "all that was missed", func() bool {
		return m.Network().Has(netip.MustParseAddr("10.1.1.249")) && !m.Network().Has(netip.MustParseAddr("10.1.0.7"))
	})
	if m.Overruns.Load() == 0 {
		t.Error("nothing was lost: this proves nothing")
	}
}

// far puts far0 into a network namespace of its own, with an address:
//
//	here: ext0 10.0.0.1/24 ── there: far0 10.0.0.2/24
func far(t *testing.T) (ext netlink.Link, mac MAC) {
	t.Helper()
	ext = veth(t)
	peer := get(t, "far0")
	here, err := netns.Get()
	must(t, err)
	defer here.Close()
	there, err := netns.New()
	must(t, err, netns.Set(here))
	t.Cleanup(func() { there.Close() })
	must(t, netlink.AddrAdd(ext, addr("10.0.0.1/24")), netlink.LinkSetNsFd(peer, int(there)))
	h, err := netlink.NewHandleAt(there, unix.NETLINK_ROUTE)
	must(t, err)
	t.Cleanup(h.Close)
	must(t, h.AddrAdd(peer, addr("10.0.0.2/24")), h.LinkSetUp(peer))
	runtime.KeepAlive(there)
	return ext, MAC(peer.Attrs().HardwareAddr)
}

func TestPaths(t *testing.T) {
	nettest.NetNS(t)
	ext, farMAC := far(t)
	m := start(t)
	near, remote := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("203.0.113.9")
	path := func(a netip.Addr) Path { return m.Paths()[a] }
	m.Watch([]netip.Addr{near, remote})
	until(t, m, "the MAC of the neighbour", func() bool { return path(near).MAC == farMAC })
	want := Path{Source: netip.MustParseAddr("10.0.0.1"), MTU: 1500, Link: ext.Attrs().Index, LinkMAC: MAC(ext.Attrs().HardwareAddr), NextHop: near, MAC: farMAC}
	if got := path(near); got != want || !got.OnLink(near) {
		t.Errorf("path %+v, want %+v", got, want)
	}
	if _, ok := m.Paths()[remote]; ok {
		t.Errorf("a path without a route: %+v", path(remote))
	}
	if _, err := m.Path(remote); err == nil {
		t.Error("a path without a route")
	}

	router := &netlink.Route{LinkIndex: ext.Attrs().Index, Gw: net.IP(near.AsSlice()), MTU: 1300, Dst: &net.IPNet{IP: net.IPv4(203, 0, 113, 0), Mask: net.CIDRMask(24, 32)}}
	must(t, netlink.RouteAdd(router))
	until(t, m, "a path behind the router", func() bool { return path(remote).NextHop == near && path(remote).MAC == farMAC })
	if got := path(remote); got.MTU != 1300 || got.OnLink(remote) {
		t.Errorf("path %+v", got)
	}
	must(t, netlink.RouteDel(router))
	until(t, m, "the route is gone", func() bool { _, ok := m.Paths()[remote]; return !ok })

	must(t, netlink.LinkSetMTU(ext, 1400))
	until(t, m, "the link's MTU", func() bool { return path(near).MTU == 1400 })
	neighbour := &netlink.Neigh{LinkIndex: ext.Attrs().Index, IP: net.IP(near.AsSlice()), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 7}, State: netlink.NUD_PERMANENT, Family: unix.AF_INET}
	must(t, netlink.NeighSet(neighbour))
	until(t, m, "another MAC", func() bool { return path(near).MAC == MAC{2, 0, 0, 0, 0, 7} })
	must(t, netlink.NeighDel(neighbour))
	until(t, m, "the MAC is asked for again", func() bool { return path(near).MAC == farMAC })
	must(t, netlink.AddrDel(ext, addr("10.0.0.1/24")))
	until(t, m, "no address, no path", func() bool { return len(m.Paths()) == 0 })

	must(t, netlink.AddrAdd(ext, addr("10.0.0.3/24")))
	until(t, m, "another source", func() bool { return path(near).Source == netip.MustParseAddr("10.0.0.3") })
	m.Watch(nil)
	until(t, m, "nothing is watched", func() bool { return len(m.Paths()) == 0 })
	if p, err := m.Path(near); err != nil || p.Link != ext.Attrs().Index {
		t.Errorf("path of an address that is not watched: %+v, %v", p, err)
	}
}
