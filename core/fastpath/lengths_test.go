package fastpath

import (
	"bytes"
	"testing"
)

// What fits the way to the backend, and lengths that contradict each other.
func TestLengths(t *testing.T) {
	newTestbed(t).check(t, []fixture{
		{"as long as the tunnel, TCP, IPv4 in IPv4", established(tunnel4), tcp4(ack, mtu4-40), to(tunnel4), "kernel_forwarded", "established"},
		{"as long as the tunnel, UDP, IPv4 in IPv4", established(tunnel4), udp4(mtu4 - 28), to(tunnel4), "kernel_forwarded", "established"},
		{"as long as the tunnel, TCP, IPv6 in IPv4", established(tunnel4), tcp6(ack, mtu4-60), to(tunnel4), "kernel_forwarded", "established"},
		{"as long as the tunnel, UDP, IPv4 in IPv6", established(tunnel6), udp4(mtu6 - 28), to(tunnel6), "kernel_forwarded", "established"},
		{"as long as the tunnel, TCP, IPv6 in IPv6", established(tunnel6), tcp6(ack, mtu6-60), to(tunnel6), "kernel_forwarded", "established"},
		{"as long as the tunnel, MACs unknown", established(neighbour4), tcp4(ack, mtu4-40), byTC(neighbour4), "kernel_forwarded", "established"},
		{"as long as the link, TCP, direct", established(direct4), tcp4(ack, mtuDirect-40), to(direct4), "kernel_forwarded", "established"},
		{"as long as the link, UDP over IPv6, direct", established(direct6), udp6(mtuDirect - 48), to(direct6), "kernel_forwarded", "established"},
		{"longer than the tunnel, TCP, IPv4 in IPv4", established(tunnel4), tcp4(ack, mtu4-39), up, "kernel_too_long", "established"},
		{"longer than the tunnel, UDP, IPv4 in IPv4", established(tunnel4), udp4(mtu4 - 27), up, "kernel_too_long", "established"},
		{"longer than the tunnel, TCP, IPv6 in IPv4", established(tunnel4), tcp6(ack, mtu4-59), up, "kernel_too_long", "established"},
		{"longer than the tunnel, UDP, IPv4 in IPv6", established(tunnel6), udp4(mtu6 - 27), up, "kernel_too_long", "established"},
		{"longer than the tunnel, TCP, IPv6 in IPv6", established(tunnel6), tcp6(ack, mtu6-59), up, "kernel_too_long", "established"},
		{"longer than the tunnel, MACs unknown", established(neighbour4), tcp4(ack, mtu4-39), up, "kernel_too_long", "established"},
		{"longer than the link, TCP, direct", established(direct4), tcp4(ack, mtuDirect-39), up, "kernel_too_long", "established"},
		{"longer than the link, UDP over IPv6, direct", established(direct6), udp6(mtuDirect - 47), up, "kernel_too_long", "established"},
		{"longer than the link, direct, MACs unknown", established(directNeighbour4), udp4(mtuDirect - 27), up, "kernel_too_long", "established"},
		{"too long FIN", established(tunnel4), tcp4(finAck, mtu4), up, "kernel_too_long", "closing"},
		{"too long, pending", pending(tunnel4), udp4(mtu4), up, "kernel_too_long", "established"},

		{"no payload, TCP", established(tunnel4), tcp4(ack, 0), to(tunnel4), "kernel_forwarded", "established"},
		{"no payload, UDP", established(tunnel4), udp4(0), to(tunnel4), "kernel_forwarded", "established"},
		{"no payload, UDP over IPv6", established(tunnel6), udp6(0), to(tunnel6), "kernel_forwarded", "established"},
		{"no payload, UDP, direct", established(direct4), udp4(0), to(direct4), "kernel_forwarded", "established"},
		{"padded ACK", established(tunnel4), padded(tcp4(ack, 0), 60), to(tunnel4), "kernel_forwarded", "established"},
		{"padded ACK, IPv4 in IPv6", established(tunnel6), padded(tcp4(ack, 0), 60), to(tunnel6), "kernel_forwarded", "established"},
		{"padded datagram", established(tunnel4), padded(udp4(1), 60), to(tunnel4), "kernel_forwarded", "established"},
		{"padded datagram, direct", established(direct4), padded(udp4(1), 60), to(direct4), "kernel_forwarded", "established"},
		{"padded datagram, MACs unknown", established(neighbour4), padded(udp4(1), 60), byTC(neighbour4), "kernel_forwarded", "established"},
		{"padded IPv6 datagram", established(tunnel4), padded(udp6(0), 64), to(tunnel4), "kernel_forwarded", "established"},
		{"padding longer than the tunnel", established(tunnel4), padded(udp4(9), mtu4+100), to(tunnel4), "kernel_forwarded", "established"},

		{"IPv4 longer than the frame", established(tunnel4), with(tcp4(ack, 9), 2, 0, 50), up, "", "established"},
		{"IPv4 of the most length", established(direct4), with(udp4(9), 2, 0xff, 0xff), up, "", "established"},
		{"IPv6 longer than the frame", established(tunnel4), with(tcp6(ack, 9), 4, 0, 30), up, "", "established"},
		{"IPv6 of the most length", established(direct6), with(udp6(9), 4, 0xff, 0xff), up, "", "established"},
		{"longer than the frame, policy's table", table(tunnel4), with(tcp4(syn, 0), 2, 0, 41), up, "", ""},
		{"longer than the frame, daemon dead", dead, with(tcp6(syn, 0), 4, 0, 21), up, "", ""},
		{"UDP longer than IP", established(tunnel4), with(udp4(9), 24, 0, 99), to(tunnel4), "kernel_forwarded", "established"},
		{"UDP shorter than IP", established(tunnel4), with(udp6(9), 44, 0, 9), to(tunnel4), "kernel_forwarded", "established"},
		{"IPv4 of length 0", established(tunnel4), with(tcp4(ack, 9), 2, 0, 0), up, "", "established"},
		{"IPv4 shorter than its header", established(tunnel4), with(tcp4(ack, 9), 2, 0, 19), up, "", "established"},
		{"IPv4 without room for TCP", established(tunnel4), with(tcp4(ack, 9), 2, 0, 39), up, "", "established"},
		{"IPv4 without room for UDP", established(direct4), with(udp4(9), 2, 0, 27), up, "", "established"},
		{"IPv6 of length 0", established(tunnel4), with(tcp6(ack, 9), 4, 0, 0), up, "", "established"},
		{"IPv6 without room for TCP", established(tunnel6), with(tcp6(ack, 9), 4, 0, 19), up, "", "established"},
		{"IPv6 without room for UDP", established(direct6), with(udp6(9), 4, 0, 7), up, "", "established"},
	})
}

// A frame of a known flow that ends before its packet does is passed on as it
// is. The kernel shows nothing below an Ethernet header in a trial, and to TC
// nothing below an IP header.
func TestTruncated(t *testing.T) {
	s := newTestbed(t)
	if err := s.reset(); err != nil {
		t.Fatal(err)
	}
	if err := established(tunnel4)(s); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name         string
		in           []byte
		network, all int // bytes to the end of the IP header, and of all headers
	}{
		{"TCP over IPv4", tcp4(ack, 9), 34, 54},
		{"UDP over IPv4", udp4(9), 34, 42},
		{"TCP over IPv6", tcp6(ack, 9), 54, 74},
		{"UDP over IPv6", udp6(9), 54, 62},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := s.counters()
			for n := 14; n < len(tt.in); n++ {
				in := tt.in[:n:n]
				if verdict, out := run(t, s.gen.xdp, in, nil); verdict != xdpPass || !bytes.Equal(out, in) {
					t.Errorf("XDP, %d bytes: verdict %d, %x", n, verdict, out)
				}
				if n < tt.network {
					continue
				}
				if verdict, out := run(t, s.gen.tc, in, nil); verdict != pass || !bytes.Equal(out, in) {
					t.Errorf("TC, %d bytes: verdict %d, %x", n, int32(verdict), out)
				}
			}
			if got := grown(before, s.counters()); len(got) != 0 {
				t.Errorf("the counters grew by %v", got)
			}
			if verdict, _ := run(t, s.gen.tc, tt.in, nil); verdict != redirect {
				t.Errorf("the whole packet: verdict %d", int32(verdict))
			}
		})
	}
}
