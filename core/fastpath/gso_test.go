package fastpath

import (
	"errors"
	"testing"
)

// Super-packets, which TC alone sees: a backend gets them whole, counted by
// their segments; a UDP one, which a tunnel would spoil, goes up. A trial's
// super-packets have no type, and so the kernel puts none into a tunnel: that
// is left to the end-to-end tests.
func TestSuperPackets(t *testing.T) {
	s := newTestbed(t)
	for _, tt := range []struct {
		super
		fixture
	}{
		{super{1000, 3}, fixture{"TCP, IPv4 direct", established(direct4), tcp4(ack, 3000), to(direct4), "kernel_forwarded", "established"}},
		{super{1000, 3}, fixture{"TCP, IPv6 direct", established(direct6), tcp6(ack, 3000), to(direct6), "kernel_forwarded", "established"}},
		{super{1000, 3}, fixture{"TCP, IPv4 direct, MACs unknown", established(directNeighbour4), tcp4(ack, 3000), to(directNeighbour4), "kernel_forwarded", "established"}},
		{super{1000, 3}, fixture{"TCP, direct, first data", pending(direct4), tcp4(ack, 3000), to(direct4), "kernel_forwarded", "established"}},
		{super{1000, 3}, fixture{"TCP, direct, FIN", established(direct6), tcp6(finAck, 3000), to(direct6), "kernel_forwarded", "closing"}},
		{super{1000, 3}, fixture{"TCP, direct, policy's table", table(direct4), tcp4(ack, 3000), to(direct4), "kernel_placed kernel_forwarded", "pending"}},
		{super{1000, 3}, fixture{"TCP, direct, daemon dead", all(lookup(direct4), dead), tcp4(ack, 3000), to(direct4), "kernel_placed kernel_forwarded", "pending"}},
		{super{1000, 0}, fixture{"TCP, direct, segments not counted yet", established(direct4), tcp4(ack, 3000), to(direct4), "kernel_forwarded", "established"}},
		{super{1000, 3}, fixture{"TCP, unknown flow", nil, tcp4(ack, 3000), up, "kernel_upcalls", ""}},
		{super{1000, 3}, fixture{"TCP, paused", established(paused), tcp4(ack, 3000), drop, "kernel_paused", "established"}},
		{super{1000, 3}, fixture{"TCP, BIG: length 0", established(direct6), with(tcp6(ack, 3000), 4, 0, 0), to(direct6), "kernel_forwarded", "established"}},
		{super{mtuDirect - 52, 2}, fixture{"TCP, segments as long as the link, direct", established(direct4), tcp4(ack, 2800), to(direct4), "kernel_forwarded", "established"}},
		{super{mtu4 - 51, 2}, fixture{"TCP, segments longer than the tunnel, IPv4 in IPv4", established(tunnel4), tcp4(ack, 2800), up, "kernel_too_long", "established"}},
		{super{mtu4 - 71, 2}, fixture{"TCP, segments longer than the tunnel, IPv6 in IPv4", established(tunnel4), tcp6(ack, 2800), up, "kernel_too_long", "established"}},
		{super{mtu6 - 51, 2}, fixture{"TCP, segments longer than the tunnel, IPv4 in IPv6", established(tunnel6), tcp4(ack, 2800), up, "kernel_too_long", "established"}},
		{super{mtuDirect - 51, 2}, fixture{"TCP, segments longer than the link, direct", established(direct4), tcp4(ack, 2900), up, "kernel_too_long", "established"}},
		{super{1000, 3}, fixture{"UDP, IPv4 in IPv4", established(tunnel4), udp4(3000), up, "kernel_too_long", "established"}},
		{super{1000, 3}, fixture{"UDP, IPv6 in IPv6", established(tunnel6), udp6(3000), up, "kernel_too_long", "established"}},
		{super{1000, 3}, fixture{"UDP, tunnel, policy's table", table(tunnel4), udp4(3000), up, "kernel_too_long", ""}},
		{super{1000, 3}, fixture{"UDP, IPv4 direct", established(direct4), udp4(3000), to(direct4), "kernel_forwarded", "established"}},
		{super{1000, 3}, fixture{"UDP, IPv6 direct", established(direct6), udp6(2500), to(direct6), "kernel_forwarded", "established"}},
		{super{mtuDirect - 28, 2}, fixture{"UDP, segments as long as the link, direct", established(direct4), udp4(2900), to(direct4), "kernel_forwarded", "established"}},
		{super{mtuDirect - 27, 2}, fixture{"UDP, segments longer than the link, direct", established(direct4), udp4(2900), up, "kernel_too_long", "established"}},
	} {
		t.Run(tt.name, func(t *testing.T) { s.checkOne(t, &tt.fixture, false, tt.super) })
	}
}

// Each segment has to fit the tunnel, with its headers and TCP's timestamps.
func TestSuperPacketsFit(t *testing.T) {
	s := newTestbed(t)
	for _, tt := range []struct {
		name string
		b    backend
		in   []byte
		most uint32
	}{
		{"IPv4 in IPv4", tunnel4, tcp4(ack, 2900), mtu4 - 20 - 32},
		{"IPv6 in IPv4", tunnel4, tcp6(ack, 2900), mtu4 - 40 - 32},
		{"IPv4 in IPv6", tunnel6, tcp4(ack, 2900), mtu6 - 20 - 32},
		{"IPv6 in IPv6", tunnel6, tcp6(ack, 2900), mtu6 - 40 - 32},
		{"MACs unknown", neighbour6, tcp6(ack, 2900), mtu6 - 40 - 32},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := errors.Join(s.reset(), established(tt.b)(s)); err != nil {
				t.Fatal(err)
			}
			for size, want := range map[uint32]uint64{tt.most: 0, tt.most + 1: 1} {
				before := s.counters()
				s.show(t, tt.in, false, super{size, 2})
				if got := grown(before, s.counters())["kernel_too_long"]; got != want {
					t.Errorf("segments of %d bytes: kernel_too_long grew by %d, want %d", size, got, want)
				}
			}
		})
	}
}
