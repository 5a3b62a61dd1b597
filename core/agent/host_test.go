package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/caplance/caplance/core/hostnet"
	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/core/rtnl"
)

// state of the machine, as far as an agent changes it.
func machineState(t *testing.T) string {
	t.Helper()
	links, err := rtnl.Dump(netlink.LinkList)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range links {
		addrs, err := rtnl.Dump(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_ALL) })
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			out = append(out, l.Attrs().Name+" "+a.IPNet.String())
		}
		out = append(out, l.Attrs().Name)
	}
	for _, key := range slices.Sorted(maps.Keys(sysctls)) {
		v, err := os.ReadFile("/proc/sys/" + key)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, key+"="+strings.TrimSpace(string(v)))
	}
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := conn.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		out = append(out, "table "+table.Name)
	}
	return strings.Join(out, "\n")
}

// udpPacket returns an IPv4 UDP datagram to a port of vip4; a checksum of 0 says
// that there is none (RFC 768).
func udpPacket(src netip.Addr, port uint16, payload string) []byte {
	b := ipPacket(vip4, 8+len(payload))
	b[8], b[9] = 64, 17
	copy(b[12:], src.AsSlice())
	binary.BigEndian.PutUint16(b[20:], 5000)
	binary.BigEndian.PutUint16(b[22:], port)
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(payload)))
	copy(b[28:], payload)
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum+sum>>16))
	return b
}

// One namespace holds balancer and backend: what the balancer tunnels to
// 127.0.0.1 must come out at a socket that is bound to the VIP.
func TestAgentOnARealMachine(t *testing.T) {
	if !nettest.OwnNetNS(t) {
		return
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("1"), 0); err != nil {
		t.Fatal(err) // as many distributions have it
	}
	before := machineState(t)
	b := newBalancer(t, 1337)
	cfg := b.config()
	a := New(cfg, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	b.until("b1 active")

	during := machineState(t)
	for _, want := range []string{"lo 192.0.2.1/32", "lo 2001:db8::1/128", Device, "arp_ignore=1", "arp_announce=2", "table caplance-agent"} {
		if !strings.Contains(during, want) {
			t.Errorf("no %s in\n%s", want, during)
		}
	}
	// The client is on no connected network: the way back to it is lo's.
	route(t, "203.0.113.0/24")
	service, err := net.ListenPacket("udp4", "192.0.2.1:7")
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	if _, err := b.tunnel.WriteToUDPAddrPort(udpPacket(netip.MustParseAddr("203.0.113.5"), 7, "hello"), netip.MustParseAddrPort("127.0.0.1:1337")); err != nil {
		t.Fatal(err)
	}
	service.SetReadDeadline(time.Now().Add(slow.Time(5 * time.Second)))
	buf := make([]byte, 100)
	n, from, err := service.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "hello" || from.String() != "203.0.113.5:5000" {
		t.Errorf("got %q from %v, %v", buf[:n], from, err)
	}

	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	b.until("")
	unroute(t, "203.0.113.0/24")
	if after := machineState(t); after != before {
		t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
	}
}

func route(t *testing.T, cidr string)   { loRoute(t, cidr, netlink.RouteAdd) }
func unroute(t *testing.T, cidr string) { loRoute(t, cidr, netlink.RouteDel) }

func loRoute(t *testing.T, cidr string, change func(*netlink.Route) error) {
	t.Helper()
	_, dst, err := net.ParseCIDR(cidr)
	if err != nil {
		t.Fatal(err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := change(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK}); err != nil {
		t.Fatal(err)
	}
}

// startReal runs an agent on this machine until stop is called.
func startReal(t *testing.T, b *balancer, cfg Config) (a *Agent, stop func() error) {
	t.Helper()
	a = New(cfg, slog.New(slog.DiscardHandler))
	a.verify = time.Hour // what is repaired is seen by an event
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { stop() })
	b.until("b1 active")
	return a, stop
}

// What a killed agent left stays until a balancer has said what to serve.
func TestSuccessorOfAKilledAgent(t *testing.T) {
	if !nettest.OwnNetNS(t) {
		return
	}
	before := machineState(t)
	b := newBalancer(t, 1337)
	cfg := b.config()
	// What the kernel does at SIGKILL: all files are closed, nothing else.
	a := New(cfg, slog.New(slog.DiscardHandler))
	h := openLocal(t, a)
	m, state := h.machine(), &desired{revision: 1, heard: true, vips: []netip.Addr{vip4, vip6, vip4.Next()}, mtu: 1400}
	for _, target := range m.targets {
		if err := target.Add(t.Context(), nil, state); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := New(cfg, a.log).openMachine(); err == nil {
		t.Fatal("two agents hold one machine")
	}
	if err := h.close(true); err != nil {
		t.Fatal(err)
	}
	if s := machineState(t); !strings.Contains(s, "192.0.2.2/32") || !strings.Contains(s, "table") {
		t.Fatalf("nothing is left of the killed agent:\n%s", s)
	}

	b.mu.Lock()
	b.deaf = true
	b.mu.Unlock()
	a = New(cfg, a.log)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	<-a.Ready()
	if s := machineState(t); !strings.Contains(s, "192.0.2.2/32") || !strings.Contains(s, "table") {
		t.Errorf("taken back before a balancer spoke:\n%s", s)
	}
	b.mu.Lock()
	b.deaf = false
	b.mu.Unlock()
	b.until("b1 active")
	within(t, "the predecessor's VIP to go", 5*time.Second, func() error {
		if s := machineState(t); strings.Contains(s, "192.0.2.2/32") || !strings.Contains(s, "192.0.2.1/32") {
			return errors.New(s)
		}
		return nil
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if after := machineState(t); after != before {
		t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
	}
}

// openLocal takes the machine over without a receiver.
func openLocal(t *testing.T, a *Agent) *local {
	t.Helper()
	dev, err := openDevice()
	if err != nil {
		t.Fatal(err)
	}
	j, err := hostnet.Adopt(filepath.Join(a.config().StateDir, "agent.journal"))
	if err != nil {
		t.Fatal(err)
	}
	return &local{device: dev, journal: j}
}

// within waits for a condition, which may take that long, as slow scales it.
func within(t *testing.T, what string, most time.Duration, ok func() error) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(slow.Time(most)); ; <-tick.C {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waited %s for %s: %v", most, what, err)
		}
	}
}

// A second agent that fails, for whichever reason, takes nothing from the first.
func TestSecondAgentLeavesTheFirstAlone(t *testing.T) {
	if !nettest.OwnNetNS(t) {
		return
	}
	b := newBalancer(t, 1337)
	cfg := b.config()
	log := slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- New(cfg, log).Run(ctx) }()
	b.until("b1 active")
	before := machineState(t)
	if !strings.Contains(before, "table caplance-agent") {
		t.Fatalf("the first has no clamp:\n%s", before)
	}
	other := b.config() // another socket and state directory
	other.Name, other.Port = "b2", 1339
	if err := New(other, log).Run(t.Context()); err == nil || !errors.Is(err, hostnet.ErrBusy) || !strings.Contains(err.Error(), "one agent at a time may run here") {
		t.Errorf("second agent: %v", err)
	}
	unlocked := New(other, log)
	unlocked.prepare()
	if err := unlocked.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "device caplance0") {
		t.Errorf("second agent without the lock: %v", err)
	}
	if after := machineState(t); after != before {
		t.Errorf("the first one's machine became:\n%s\nit was:\n%s", after, before)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
