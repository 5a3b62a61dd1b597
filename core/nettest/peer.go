package nettest

import (
	"errors"
	"net"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core/nettest/slow"
)

// Peer is another network namespace. A link joins it with the calling thread's;
// both ends are called eth0. Packets of a Peer come in by a link, as those of
// clients do; what a namespace sends to itself comes by lo.
type Peer struct {
	t           testing.TB
	here, there netns.NsHandle
}

// NewPeer makes a namespace with the addresses there, joined with the one of the
// calling thread, which gets the addresses here: "10.0.0.1/24".
func NewPeer(t testing.TB, here, there []string) *Peer {
	t.Helper()
	Root(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p := &Peer{t: t}
	var err error
	if p.here, err = netns.Get(); err != nil {
		t.Fatal(err)
	}
	if p.there, err = netns.New(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.here.Close()
		p.there.Close()
	})
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(p.here))}
	err = errors.Join(netlink.LinkAdd(pair), setUp(there), netns.Set(p.here), setUp(here))
	if err != nil {
		t.Fatal(err)
	}
	settle(t)
	p.Do(func() error { settle(t); return nil })
	return p
}

// settle waits until all addresses are there: IPv6's are tentative for a moment.
func settle(t testing.TB) {
	t.Helper()
	for end := time.Now().Add(slow.Time(10 * time.Second)); ; <-time.After(time.Millisecond) {
		addrs, err := netlink.AddrList(nil, netlink.FAMILY_V6)
		if err != nil || time.Now().After(end) {
			t.Fatalf("addresses %v: %v", addrs, err)
		}
		if !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.Flags&unix.IFA_F_TENTATIVE != 0 }) {
			return
		}
	}
}

// setUp gives the thread's eth0 its addresses and no link-local one, which would
// come at some time.
func setUp(addrs []string) error {
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/eth0/addr_gen_mode", []byte("1"), 0); err != nil {
		return err
	}
	for _, a := range addrs {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(link, addr); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(link)
}

// Route leads the namespace's packets to a network to an address of the first
// one.
func (p *Peer) Route(to, via string) {
	p.t.Helper()
	_, dst, err := net.ParseCIDR(to)
	if err != nil {
		p.t.Fatal(err)
	}
	p.Do(func() error { return netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(via)}) })
}

// Do runs f in the namespace: sockets that it opens stay there.
func (p *Peer) Do(f func() error) {
	p.t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := errors.Join(netns.Set(p.there), f(), netns.Set(p.here)); err != nil {
		p.t.Fatal(err)
	}
}

// Dial opens a connection from there.
func (p *Peer) Dial(network, to string) net.Conn {
	p.t.Helper()
	var c net.Conn
	p.Do(func() (err error) {
		c, err = new(net.Dialer).DialContext(p.t.Context(), network, to)
		return err
	})
	p.t.Cleanup(func() { c.Close() })
	return c
}
