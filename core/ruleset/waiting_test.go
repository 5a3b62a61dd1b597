package ruleset_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/netmon"
	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/core/packet/packettest"
	"github.com/caplance/caplance/core/ruleset"
	"github.com/caplance/caplance/core/verdict"
	"github.com/vishvananda/netlink"
)

var vip = netip.MustParseAddr("192.0.2.1")

// waiting returns how many packets wait in queue 0 for a verdict: the third
// column of the kernel's table.
func waiting(t *testing.T) (n int) {
	t.Helper()
	b, err := os.ReadFile("/proc/thread-self/net/netfilter/nfnetlink_queue")
	if err != nil {
		t.Fatal(err)
	}
	var queue, portid int
	if _, err := fmt.Sscan(string(b), &queue, &portid, &n); err != nil || queue != 0 {
		t.Fatalf("%q: %v", b, err)
	}
	return n
}

// accept lets every packet go on.
type accept struct{}

func (accept) Packet([]byte, uint32) verdict.Verdict { return verdict.Accept }
func (accept) Flush()                                {}
func (accept) Woken()                                {}
func (accept) Tick(time.Time) time.Duration          { return 20 * time.Millisecond }

// captureSome takes UDP port 53 of a VIP to queue 0 and leaves 50 packets waiting
// there.
func captureSome(t *testing.T) (*ruleset.CaptureTarget, *ruleset.Capture, *verdict.Queue, *net.UDPConn) {
	t.Helper()
	clients := withClients(t)
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: vip.AsSlice(), Mask: net.CIDRMask(32, 32)}}); err != nil {
		t.Fatal(err)
	}
	q, err := verdict.Open(verdict.Config{Length: 1024, Buffer: 1 << 22})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close() })
	target := ruleset.NewCapture()
	c := &ruleset.Capture{Queues: 1, TunnelPort: 1337, Services: []ruleset.Service{
		{VIP: vip, Proto: core.ProtoUDP, Ports: []core.PortRange{{First: 53, Last: 53}}},
	}}
	if err := target.Add(t.Context(), nil, c); err != nil {
		t.Fatal(err)
	}
	server, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(vip, 53)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	for i := range packets {
		conn := clients.Dial("udp4", server.LocalAddr().String())
		if _, err := fmt.Fprint(conn, i); err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	if n := waiting(t); n != packets {
		t.Fatalf("%d packets wait, want %d", n, packets)
	}
	return target, c, q, server
}

const packets = 50

// withClients moves the test into a namespace to whose VIPs clients have a way.
func withClients(t *testing.T) *nettest.Peer {
	t.Helper()
	nettest.NetNS(t)
	p := nettest.NewPeer(t, []string{"10.0.0.1/24", "fd00::1/64"}, []string{"10.0.0.7/24", "fd00::7/64"})
	p.Route("192.0.2.0/24", "10.0.0.1")
	p.Route("2001:db8::/64", "fd00::1")
	return p
}

// A change of services, of queues and of a foreign table's rules loses none of
// the packets that wait for a verdict.
func TestWaitingPacketsSurviveChanges(t *testing.T) {
	target, was, q, server := captureSome(t)
	next := func(change func(*ruleset.Capture)) {
		want := *was
		change(&want)
		if err := target.Add(t.Context(), was, &want); err != nil {
			t.Fatal(err)
		}
		if err := target.Prune(t.Context(), was, &want); err != nil {
			t.Fatal(err)
		}
		was = &want
	}
	next(func(c *ruleset.Capture) {
		c.Services = []ruleset.Service{{VIP: netip.MustParseAddr("192.0.2.9"), Proto: core.ProtoTCP, Ports: []core.PortRange{core.AllPorts}}}
	})
	next(func(c *ruleset.Capture) { c.Queues, c.Seed = 3, 9 })
	next(func(c *ruleset.Capture) { c.FirstQueue = 7 })
	next(func(c *ruleset.Capture) { c.TunnelPort = 1338 })
	if n := waiting(t); n != packets {
		t.Fatalf("%d packets wait after the changes, want %d", n, packets)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- verdict.NewLoop(q, accept{}).Run(ctx) }()
	buf := make([]byte, 100)
	for i := range packets {
		server.SetReadDeadline(time.Now().Add(slow.Time(10 * time.Second)))
		if _, err := server.Read(buf); err != nil {
			t.Fatalf("packet %d of %d: %v", i+1, packets, err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// What the kernel does when any chain with a hook goes away, be it somebody
// else's: the reason why a table is never made anew, and the proof that the
// test above sees a loss.
func TestDeletedHookDropsWaitingPackets(t *testing.T) {
	captureSome(t)
	if err := (&ruleset.Clamp{VIPs: []netip.Addr{vip}, MTU: 1400}).Apply(); err != nil {
		t.Fatal(err)
	}
	if n := waiting(t); n != packets {
		t.Errorf("%d packets wait after another table was added, want %d", n, packets)
	}
	if err := ruleset.RemoveClamp(); err != nil {
		t.Fatal(err)
	}
	if n := waiting(t); n != 0 {
		t.Errorf("%d packets wait after another table was deleted: the kernel keeps them now", n)
	}
}

func TestWatch(t *testing.T) {
	if !nettest.OwnNetNS(t) {
		return
	}
	ctx, cancel := context.WithCancel(t.Context())
	changed, done := make(chan struct{}, 100), make(chan error)
	go func() { done <- ruleset.Watch(ctx, func() { changed <- struct{}{} }) }()
	seen := func(what string) {
		t.Helper()
		select {
		case <-changed:
		case <-time.After(slow.Time(2 * time.Second)):
			t.Fatalf("not told of %s", what)
		}
	}
	seen("the beginning")
	c := &ruleset.Clamp{VIPs: []netip.Addr{vip}, MTU: 1400}
	if err := ruleset.NewClamp().Share().Add(t.Context(), nil, c); err != nil {
		t.Fatal(err)
	}
	seen("a new table")
	seen("its elements")
	if err := ruleset.RemoveClamp(); err != nil {
		t.Fatal(err)
	}
	seen("a deleted table")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if list, err := ruleset.Tables(); err != nil || strings.Join(list, "") != "" {
		t.Errorf("tables %q, %v", list, err)
	}
}

// Only the ports of the services come up, in both families, and nothing that this
// machine sends to itself or that an agent took out of a tunnel.
func TestWhatIsCaptured(t *testing.T) {
	clients := withClients(t)
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	q, err := verdict.Open(verdict.Config{Length: 1024, Buffer: 1 << 22})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	c := &ruleset.Capture{Queues: 1, TunnelPort: 1337}
	vips := []netip.Addr{vip, netip.MustParseAddr("2001:db8::1")}
	for _, v := range vips {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: v.AsSlice(), Mask: net.CIDRMask(v.BitLen(), v.BitLen())}}
		if v.Is6() {
			addr.Flags = 0x02 // IFA_F_NODAD
		}
		if err := netlink.AddrAdd(lo, addr); err != nil {
			t.Fatal(err)
		}
		c.Services = append(c.Services, ruleset.Service{VIP: v, Proto: core.ProtoUDP, Ports: []core.PortRange{{First: 53, Last: 53}, {First: 1000, Last: 2000}, {First: 65535, Last: 65535}}})
	}
	if _, err := c.Apply(); err != nil {
		t.Fatal(err)
	}
	for _, v := range vips {
		// The first one waits until the neighbours know each other.
		before, deadline := waiting(t), time.Now().Add(slow.Time(10*time.Second))
		write(t, clients.Dial("udp", netip.AddrPortFrom(v, 53).String()))
		for waiting(t) == before {
			if time.Now().After(deadline) {
				t.Fatalf("nothing comes to %v", v)
			}
			<-time.After(time.Millisecond)
		}
		for port, want := range map[uint16]bool{52: false, 53: true, 54: false, 999: false, 1000: true, 1500: true, 2000: true, 2001: false, 65534: false, 65535: true} {
			before := waiting(t)
			write(t, clients.Dial("udp", netip.AddrPortFrom(v, port).String()))
			if got := waiting(t) > before; got != want {
				t.Errorf("%v port %d: captured %t, want %t", v, port, got, want)
			}
		}
	}
}

func write(t *testing.T, conn net.Conn) {
	t.Helper()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

// What this machine sends to a VIP of its own, and what an agent on it has taken
// out of a tunnel, does not come up: it would circle.
func TestOwnPacketsAreNotCaptured(t *testing.T) {
	captureSome(t)
	conn, err := net.Dial("udp", netip.AddrPortFrom(vip, 53).String())
	if err != nil {
		t.Fatal(err)
	}
	write(t, conn)
	if n := waiting(t); n != packets {
		t.Errorf("%d packets wait, one by lo among them", n)
	}
	packet := packettest.UDP(netip.MustParseAddrPort("198.51.100.7:4000"), netip.AddrPortFrom(vip, 53), []byte("x"))
	for _, name := range []string{"tun0", netmon.AgentDevice} {
		tun := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TUN, NonPersist: true, Flags: netlink.TUNTAP_NO_PI, Queues: 1}
		if err := netlink.LinkAdd(tun); err != nil {
			t.Fatal(err)
		}
		defer tun.Fds[0].Close()
		for _, link := range []string{"all", name} {
			if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+link+"/rp_filter", []byte("0"), 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := netlink.LinkSetUp(tun); err != nil {
			t.Fatal(err)
		}
		before, want := waiting(t), 0
		if name == "tun0" {
			want = 1 // the proof that such a packet is captured
		}
		if _, err := tun.Fds[0].Write(packet); err != nil {
			t.Fatal(err)
		}
		if got := waiting(t) - before; got != want {
			t.Errorf("%s: %d packets captured, want %d", name, got, want)
		}
	}
}
