package verdict

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/core/packet"
	"github.com/caplance/caplance/core/ruleset"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var vip = netip.MustParseAddr("192.0.2.1")

// setup captures UDP port 53 of the VIP, which is local, so that what is accepted
// gets somewhere, and returns where clients are.
func setup(t testing.TB, queues int) (*ruleset.Capture, *nettest.Peer) {
	t.Helper()
	nettest.NetNS(t)
	clients := nettest.NewPeer(t, []string{"10.0.0.1/24"}, []string{"10.0.0.7/24"})
	clients.Route("192.0.2.0/24", "10.0.0.1")
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: vip.AsSlice(), Mask: net.CIDRMask(32, 32)}}); err != nil {
		t.Fatal(err)
	}
	c := &ruleset.Capture{
		Services: []ruleset.Service{{VIP: vip, Proto: core.ProtoUDP, Ports: []core.PortRange{{First: 53, Last: 53}}}},
		Queues:   queues, Seed: 99, TunnelPort: 1337,
	}
	return c, clients
}

// recorder counts what it sees and accepts datagrams whose payload starts
// with 'a'.
type recorder struct {
	queue int
	want  func(*core.FlowKey) int
	t     testing.TB
	seen  atomic.Int64
	ticks atomic.Int64
	woken atomic.Int64
}

func (r *recorder) Packet(b []byte, _ uint32) Verdict {
	var p packet.Packet
	if err := p.Parse(b); err != nil {
		r.t.Errorf("parse: %v", err)
	}
	if q := r.want(&p.Key); q != r.queue {
		r.t.Errorf("flow %v came to queue %d, FlowQueue says %d", p.Key.SrcAddr(), r.queue, q)
	}
	r.seen.Add(1)
	if b[p.Header+8] == 'a' {
		return Accept
	}
	return Drop
}
func (r *recorder) Flush() {}
func (r *recorder) Woken() { r.woken.Add(1) }
func (r *recorder) Tick(time.Time) time.Duration {
	r.ticks.Add(1)
	return 20 * time.Millisecond
}

// eventually waits for a condition with a deadline.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(slow.Time(10 * time.Second)); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("timed out waiting: %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

func TestLoop(t *testing.T) {
	c, clients := setup(t, 3)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var handlers []*recorder
	var loops []*Loop
	done := make(chan error)
	for i := range c.Queues {
		q, err := Open(Config{Queue: uint16(i), Length: 4096, Buffer: 1 << 22})
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		h := &recorder{queue: i, want: c.FlowQueue, t: t}
		l := NewLoop(q, h)
		handlers, loops = append(handlers, h), append(loops, l)
		go func() { done <- l.Run(ctx) }()
	}
	if _, err := Open(Config{Queue: 0, Length: 1, Buffer: 1 << 20}); err == nil {
		t.Error("a queue was bound twice")
	}
	if _, err := c.Apply(); err != nil {
		t.Fatal(err)
	}
	server, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(vip, 53)))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()

	const flows = 200
	for i := range flows {
		conn := clients.Dial("udp4", server.LocalAddr().String())
		for _, payload := range []string{"drop me", "accept me"} {
			if payload = payload[i%2:]; i%2 == 1 && payload[0] == 'r' {
				payload = "x"
			}
			if _, err := conn.Write([]byte(payload)); err != nil {
				t.Fatal(err)
			}
		}
		conn.Close()
	}
	total := func() (n int64) {
		for _, h := range handlers {
			n += h.seen.Load()
		}
		return n
	}
	eventually(t, "all packets to come up", func() bool { return total() == 2*flows })
	// The even flows' second datagram, "accept me", is all that gets through.
	buf := make([]byte, 100)
	for range flows / 2 {
		server.SetReadDeadline(time.Now().Add(slow.Time(5 * time.Second)))
		n, err := server.Read(buf)
		if err != nil || string(buf[:n]) != "accept me" {
			t.Fatalf("read %q: %v", buf[:n], err)
		}
	}
	for i, h := range handlers {
		if h.seen.Load() < 20 {
			t.Errorf("queue %d saw %d of %d packets: flows are not spread", i, h.seen.Load(), 2*flows)
		}
	}
	eventually(t, "a Wake", func() bool { // one that meets a tick is the tick's
		loops[0].Wake()
		return handlers[0].woken.Load() > 0
	})
	before := handlers[0].ticks.Load()
	eventually(t, "a tick", func() bool { return handlers[0].ticks.Load() > before })
	cancel()
	for range loops {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	var m message
	good := []byte{32, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 5, 11, 0, 1, 0, 0, 0, 0, 9, 8, 0, 1, 0}
	if !m.parse(good) || m.id != 9 {
		t.Fatalf("refused a packet message: %+v", m)
	}
	for n := range 27 {
		if m.parse(good[:n:n]) {
			t.Errorf("accepted %d of %d bytes", n, len(good))
		}
	}
}

// FuzzParse: whatever the kernel sends, the parser stays inside the buffer.
func FuzzParse(f *testing.F) {
	f.Add([]byte{32, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 5, 11, 0, 1, 0, 0, 0, 0, 9, 8, 0, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var m message
		m.parse(b[:len(b):len(b)])
	})
}
