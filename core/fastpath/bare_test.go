package fastpath

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/core/nettest/slow"
)

// tuntap is a link whose packets a test writes and reads: TUN, without Ethernet
// header, or TAP.
type tuntap struct {
	core.Link
	file *os.File
}

func newTuntap(t *testing.T, name string, bare bool) *tuntap {
	t.Helper()
	l := &netlink.Tuntap{
		LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TAP, NonPersist: true,
		Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_ONE_QUEUE, Queues: 1,
	}
	if bare {
		l.Mode = netlink.TUNTAP_MODE_TUN
	}
	if err := netlink.LinkAdd(l); err != nil {
		t.Fatal(err)
	}
	// What the kernel says by itself on a new link would be in the test's way.
	sysctl(t, "net/ipv6/conf/"+name+"/disable_ipv6", "1")
	if err := netlink.LinkSetUp(l); err != nil {
		t.Fatal(err)
	}
	fresh, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	out := &tuntap{core.Link{Name: name, Index: fresh.Attrs().Index, Bare: bare}, l.Fds[0]}
	copy(out.MAC[:], fresh.Attrs().HardwareAddr)
	t.Cleanup(func() { out.file.Close() })
	return out
}

func sysctl(t *testing.T, key, value string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

// send has a frame of the fixtures' come in by the link.
func (l *tuntap) send(t *testing.T, frame []byte) {
	t.Helper()
	frame = bytes.Clone(frame)
	copy(frame, l.MAC[:])
	if l.Bare {
		frame = frame[14:]
	}
	if _, err := l.file.Write(frame); err != nil {
		t.Fatal(err)
	}
}

// next returns what leaves by the link.
func (l *tuntap) next(t *testing.T) []byte {
	t.Helper()
	b := make([]byte, 2048)
	if err := l.file.SetReadDeadline(time.Now().Add(slow.Time(10 * time.Second))); err != nil {
		t.Fatal(err)
	}
	n, err := l.file.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

// Clients and backends may be behind links without an Ethernet header, or with
// one, in every combination.
func TestBareLinks(t *testing.T) {
	nettest.NetNS(t)
	links := map[string]*tuntap{"tun": newTuntap(t, "tun0", true), "tap": newTuntap(t, "tap0", false)}
	out := map[string]*tuntap{"tun": newTuntap(t, "tun1", true), "tap": newTuntap(t, "tap1", false)}
	snapshot := testSnapshot(links["tun"].Link, links["tap"].Link)
	s := &testbed{Balancer: open(t, snapshot), snapshot: snapshot}
	for name, in := range map[string][]byte{
		"TCP": tcp4(ack, 9), "UDP": udp4(9), "TCP over IPv6": tcp6(ack, 9), "UDP over IPv6": udp6(9), "as long as the tunnel": udp4(mtu4 - 28),
	} {
		for _, way := range []struct {
			from, to string
			b        backend
		}{
			{"tun", "tap", tunnel4}, {"tun", "tun", tunnel4}, {"tap", "tun", tunnel4}, {"tap", "tap", tunnel4},
			{"tun", "tap", direct4}, {"tap", "tap", direct4},
		} {
			t.Run(name+"/"+way.from+" to "+way.to+map[bool]string{true: " direct"}[way.b == direct4], func(t *testing.T) {
				target := way.b.target(out[way.to].Index)
				target.Bare = out[way.to].Bare
				k := keyOf(in)
				key := flowKey(k, s.gen.vips.byAddr[k.Dst])
				f := balanceFlow{Handle: uint32(target.Handle), Service: uint16(s.serviceOf(k)), Created: s.tick(), Seen: s.tick()}
				if err := s.SetTarget(target); err != nil {
					t.Fatal(err)
				}
				if err := s.maps().Flows.Put(&key, &f); err != nil {
					t.Fatal(err)
				}
				links[way.from].send(t, in)
				want := s.forwarded(in, way.b, k.TunnelPort(), super{})
				if target.Bare {
					want = want[14:]
				}
				if got := out[way.to].next(t); !bytes.Equal(got, want) {
					t.Errorf("the backend gets\n%x, want\n%x", got, want)
				}
			})
		}
	}
}

// While a filter's program is replaced, again and again, no packet finds none.
func TestFilterReplacedAtOnce(t *testing.T) {
	nettest.NetNS(t)
	in, out := newTuntap(t, "tap0", false), newTuntap(t, "tap1", false)
	snapshot := testSnapshot()
	s := &testbed{Balancer: open(t, snapshot), snapshot: snapshot}
	next, err := s.loadGeneration(s.maps(), snapshot) // the same flows by another program
	if err != nil {
		t.Fatal(err)
	}
	defer next.close()
	f, err := attachFilter(in.Index, s.gen.tc, balanceHandle)
	if err != nil {
		t.Fatal(err)
	}
	defer f.detach()
	if err := errors.Join(s.SetTarget(tunnel4.target(out.Index)), established(tunnel4)(s)); err != nil {
		t.Fatal(err)
	}
	const packets = 2000
	before := s.counters()["kernel_forwarded"]
	frame := bytes.Clone(tcp4(ack, 9))
	copy(frame, in.MAC[:])
	for i := range packets {
		if i%4 == 0 {
			if err := f.update([]*ebpf.Program{s.gen.tc, next.tc}[i/4%2]); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := in.file.Write(frame); err != nil {
			t.Fatal(err)
		}
	}
	// Counted, not read: a TAP drops what nobody has taken off it in time.
	deadline := time.Now().Add(slow.Time(10 * time.Second))
	for s.counters()["kernel_forwarded"]-before < packets && time.Now().Before(deadline) {
		runtime.Gosched()
	}
	if n := s.counters()["kernel_forwarded"] - before; n != packets {
		t.Errorf("%d of %d packets were forwarded", n, packets)
	}
}

// A packet that goes up by a bridge's port and by the bridge, both with a
// program, goes up once.
func TestSeenOnce(t *testing.T) {
	nettest.NetNS(t)
	port := newTuntap(t, "tap0", false)
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", HardwareAddr: port.MAC[:]}}
	if err := netlink.LinkAdd(br); err != nil {
		t.Fatal(err)
	}
	sysctl(t, "net/ipv6/conf/br0/disable_ipv6", "1")
	if err := errors.Join(netlink.LinkSetMasterByIndex(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: port.Index}}, br.Index), netlink.LinkSetUp(br)); err != nil {
		t.Fatal(err)
	}
	snapshot := testSnapshot(port.Link, core.Link{Name: "br0", Index: br.Index, MAC: port.MAC})
	s := &testbed{Balancer: open(t, snapshot), snapshot: snapshot}
	received := func() uint64 {
		l, err := netlink.LinkByIndex(br.Index)
		if err != nil {
			t.Fatal(err)
		}
		return l.Attrs().Statistics.RxPackets
	}
	if err := errors.Join(s.SetTarget(tunnel4.target(br.Index)), established(tunnel4)(s), s.maps().Flows.Delete(flowKeyOf(s, tcp4(syn, 0)))); err != nil {
		t.Fatal(err)
	}
	for what, in := range map[string][]byte{
		"kernel_upcalls": tcp4(syn, 0), "kernel_too_long": tcp(client4, web444, ack, mtu4-39),
	} {
		before, came := s.counters()[what], received()
		port.send(t, in)
		for deadline := time.Now().Add(slow.Time(10 * time.Second)); received() == came; {
			if time.Now().After(deadline) {
				t.Fatal("nothing came by the bridge")
			}
			runtime.Gosched()
		}
		if n := s.counters()[what] - before; n != 1 {
			t.Errorf("%s grew by %d", what, n)
		}
	}
}

func flowKeyOf(s *testbed, in []byte) *balanceFlowKey {
	k := keyOf(in)
	key := flowKey(k, s.gen.vips.byAddr[k.Dst])
	return &key
}

// A bare target is TC's: no driver has XDP_REDIRECT to a tunnel.
func TestBareTargetIsLeftToTC(t *testing.T) {
	s := newTestbed(t)
	target := tunnel4.target(s.link)
	target.Bare = true
	if err := s.SetTarget(target); err != nil {
		t.Fatal(err)
	}
	if err := established(tunnel4)(s); err != nil {
		t.Fatal(err)
	}
	if verdict, _ := run(t, s.gen.xdp, tcp4(ack, 9), nil); verdict != xdpPass {
		t.Errorf("XDP says %d", verdict)
	}
}

// The agent's program takes packets out of a tunnel that come by a bare link.
func TestBareReceiver(t *testing.T) {
	nettest.NetNS(t)
	link := newTuntap(t, "tun0", true)
	sysctl(t, "net/ipv6/conf/tun0/disable_ipv6", "0")
	for _, key := range []string{"all", "tun0"} {
		sysctl(t, "net/ipv4/conf/"+key+"/rp_filter", "0")
	}
	r, err := OpenReceiver(link.Name, port, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := r.Accept([]netip.Addr{vip4.Addr(), vip6.Addr()}, []netip.Addr{lb4, lb6}); err != nil {
		t.Fatal(err)
	}
	vips := map[string]*net.UDPConn{"IPv4": listen(t, vip4), "IPv6": listen(t, vip6)}
	for name, inner := range map[string][]byte{"IPv4": udp4(9), "IPv6": udp6(9)} {
		for outer, in := range map[string][]byte{"IPv4": in4(inner), "IPv6": in6(inner)} {
			t.Run(name+" in "+outer, func(t *testing.T) {
				link.send(t, in)
				b := make([]byte, 2048)
				if err := vips[name].SetReadDeadline(time.Now().Add(slow.Time(10 * time.Second))); err != nil {
					t.Fatal(err)
				}
				n, from, err := vips[name].ReadFromUDPAddrPort(b)
				if want := map[string]netip.AddrPort{"IPv4": client4, "IPv6": client6}[name]; err != nil || from != want || !bytes.Equal(b[:n], payload(9)) {
					t.Errorf("%x from %v, %v", b[:n], from, err)
				}
			})
		}
	}
	if packets, _ := r.Total(); packets != 4 {
		t.Errorf("%d packets taken out of the tunnel, want 4", packets)
	}
}

// listen puts a VIP on lo and listens there, whoever is routed back to where.
func listen(t *testing.T, vip netip.AddrPort) *net.UDPConn {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	addr := &netlink.Addr{IPNet: netlink.NewIPNet(net.IP(vip.Addr().AsSlice())), Flags: unix.IFA_F_NODAD}
	if err := errors.Join(netlink.LinkSetUp(lo), netlink.AddrAdd(lo, addr)); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(slow.Time(10 * time.Second))
	for { // an IPv6 address takes a moment until it is local
		routes, err := netlink.RouteGet(vip.Addr().AsSlice())
		if err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v is not local: %v, %v", vip, routes, err)
		}
		runtime.Gosched()
	}
	l, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(vip))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}
