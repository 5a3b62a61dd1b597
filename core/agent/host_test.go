package agent

import (
	"context"
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/caplance/caplance/e2e/require"
)

// state of the machine, as far as an agent changes it.
func machineState(t *testing.T) string {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range links {
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			out = append(out, l.Attrs().Name+" "+a.IPNet.String())
		}
		out = append(out, l.Attrs().Name)
	}
	for _, s := range sysctls {
		v, err := os.ReadFile("/proc/sys/" + s[0])
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, s[0]+"="+strings.TrimSpace(string(v)))
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

// udpPacket is an IPv4 UDP datagram to a port of vip4; a checksum of 0 says
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
	if !require.OwnNetNS(t) {
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
	// The client is on no network of ours: the way back to it is lo's.
	route(t, "203.0.113.0/24")
	service, err := net.ListenPacket("udp4", "192.0.2.1:7")
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	if _, err := b.tunnel.WriteToUDPAddrPort(udpPacket(netip.MustParseAddr("203.0.113.5"), 7, "hello"), netip.MustParseAddrPort("127.0.0.1:1337")); err != nil {
		t.Fatal(err)
	}
	service.SetReadDeadline(time.Now().Add(5 * time.Second))
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

func TestHostTakesOverAfterAKill(t *testing.T) {
	require.NetNS(t)
	before := machineState(t)
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	killed, err := openHost(dir, log)
	if err != nil {
		t.Fatal(err)
	}
	if err := killed.Serve([]netip.Addr{vip4, vip6}, 1400); err != nil {
		t.Fatal(err)
	}
	if _, err := openHost(dir, log); err == nil {
		t.Fatal("two agents hold one machine")
	}
	// What the kernel does at SIGKILL: all files are closed, nothing else.
	journal, err := os.ReadFile(filepath.Join(dir, "agent.journal"))
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "agent.journal"), journal, 0o600); err != nil {
		t.Fatal(err)
	}
	killed.tun.Close()

	h, err := openHost(dir, log)
	if err != nil {
		t.Fatal(err)
	}
	if s := machineState(t); strings.Contains(s, "192.0.2.1") || strings.Contains(s, "table") {
		t.Errorf("not taken back:\n%s", s)
	}
	for _, vips := range [][]netip.Addr{{vip4, vip6}, {vip6}} {
		if err := h.Serve(vips, 1400); err != nil {
			t.Fatal(err)
		}
	}
	if s := machineState(t); strings.Contains(s, "192.0.2.1") || !strings.Contains(s, "2001:db8::1/128") {
		t.Errorf("after the VIPs changed:\n%s", s)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if after := machineState(t); after != before {
		t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
	}
}
