package verdict

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
)

// The portable loop keeps the contract that TestLoop holds Loop to.
func TestPlain(t *testing.T) {
	c := setup(t, 1)
	h := &recorder{want: func(*core.FlowKey) int { return 0 }, t: t}
	cfg := Config{Queue: 0, Length: 4096, Buffer: 1 << 22, Tick: 5 * time.Millisecond}
	p, err := OpenPlain(cfg, h)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenPlain(cfg, h); err == nil {
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
	conn, err := net.DialUDP("udp4", nil, server.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, payload := range []string{"drop me", "accept me"} {
		if _, err := conn.Write([]byte(payload)); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 100)
	server.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := server.Read(buf); err != nil || string(buf[:n]) != "accept me" {
		t.Errorf("read %q: %v", buf[:n], err)
	}
	if n := h.seen.Load(); n != 2 {
		t.Errorf("%d packets came up, want 2", n)
	}
	eventually(t, "ticks", func() bool { return h.ticks.Load() > 1 })
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	seen := h.ticks.Load()
	again, err := OpenPlain(Config{Queue: 0, Length: 16, Buffer: 1 << 20}, h)
	if err != nil {
		t.Fatalf("the queue is still bound: %v", err)
	}
	if err := again.Close(); err != nil || h.ticks.Load() != seen {
		t.Errorf("%d ticks after Close, %v", h.ticks.Load()-seen, err)
	}
}
