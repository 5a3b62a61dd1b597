package fastpath

import (
	"testing"

	"github.com/caplance/caplance/core/packet/packettest"
)

// Every packet here is of a known flow, or would be if all were well with it.
func TestHeaders(t *testing.T) {
	newTestbed(t).check(t, []fixture{
		{"TTL 0", established(tunnel4), with(tcp4(ack, 9), 8, 0), up, "kernel_slow", "established"},
		{"TTL 1", established(tunnel4), with(tcp4(ack, 9), 8, 1), up, "kernel_slow", "established"},
		{"TTL 1, direct", established(direct4), with(tcp4(ack, 9), 8, 1), up, "kernel_slow", "established"},
		{"TTL 1, FIN", established(tunnel4), with(tcp4(finAck, 0), 8, 1), up, "kernel_slow", "established"},
		{"TTL 1, policy's table", table(tunnel4), with(tcp4(syn, 0), 8, 1), up, "kernel_slow", ""},
		{"TTL 1, of no VIP", nil, with(tcp(client4, nobody4, ack, 9), 8, 1), up, "", ""},
		{"TTL 2", established(tunnel4), with(tcp4(ack, 9), 8, 2), to(tunnel4), "kernel_forwarded", "established"},
		{"TTL 2, MACs unknown", established(neighbour4), with(tcp4(ack, 9), 8, 2), byTC(neighbour4), "kernel_forwarded", "established"},
		{"TTL 2, direct", established(direct4), with(udp4(9), 8, 2), to(direct4), "kernel_forwarded", "established"},
		{"TTL 255", established(tunnel6), with(tcp4(ack, 9), 8, 255), to(tunnel6), "kernel_forwarded", "established"},
		{"checksum that wraps", established(tunnel4), with(tcp4(ack, 9), 10, 0xfe, 0xff), to(tunnel4), "kernel_forwarded", "established"},
		{"checksum that wraps, direct", established(direct4), with(tcp4(ack, 9), 10, 0xff, 0x80), to(direct4), "kernel_forwarded", "established"},
		{"hop limit 1", established(tunnel6), with(tcp6(ack, 9), 7, 1), up, "kernel_slow", "established"},
		{"hop limit 1, direct", established(direct6), with(udp6(9), 7, 1), up, "kernel_slow", "established"},
		{"hop limit 2", established(tunnel4), with(udp6(9), 7, 2), to(tunnel4), "kernel_forwarded", "established"},
		{"hop limit 2, direct", established(direct6), with(tcp6(ack, 9), 7, 2), to(direct6), "kernel_forwarded", "established"},
		{"hop limit 255", established(tunnel6), with(tcp6(ack, 9), 7, 255), to(tunnel6), "kernel_forwarded", "established"},
		{"DSCP and ECN", established(tunnel4), with(tcp4(ack, 9), 1, 0xbb), to(tunnel4), "kernel_forwarded", "established"},
		{"DSCP and ECN, tunnel over IPv6", established(tunnel6), with(tcp4(ack, 9), 1, 0xbb), to(tunnel6), "kernel_forwarded", "established"},
		{"CE, MACs unknown", established(neighbour4), with(tcp4(ack, 9), 1, 3), byTC(neighbour4), "kernel_forwarded", "established"},
		{"traffic class, tunnel over IPv6", established(tunnel6), with(udp6(9), 0, 0x6b, 0xb1, 0x23, 0x45), to(tunnel6), "kernel_forwarded", "established"},
		{"DSCP and ECN, direct", established(direct4), with(udp4(9), 1, 0xbb), to(direct4), "kernel_forwarded", "established"},
		{"traffic class and flow label", established(tunnel4), with(tcp6(ack, 9), 0, 0x6b, 0xb1, 0x23, 0x45), to(tunnel4), "kernel_forwarded", "established"},
		{"traffic class and flow label, direct", established(direct6), with(udp6(9), 0, 0x6b, 0xb1, 0x23, 0x45), to(direct6), "kernel_forwarded", "established"},
		{"identification", established(tunnel4), with(tcp4(ack, 9), 4, 0xab, 0xcd), to(tunnel4), "kernel_forwarded", "established"},
		{"without DF", established(tunnel4), with(tcp4(ack, 9), 6, 0, 0), to(tunnel4), "kernel_forwarded", "established"},
		{"evil bit", established(tunnel4), with(tcp4(ack, 9), 6, 0x80, 0), to(tunnel4), "kernel_forwarded", "established"},
		{"IP checksum wrong", established(tunnel4), with(tcp4(ack, 9), 10, 1, 2), to(tunnel4), "kernel_forwarded", "established"},
		{"TCP checksum wrong", established(tunnel4), with(tcp4(ack, 9), 36, 1, 2), to(tunnel4), "kernel_forwarded", "established"},
		{"TCP options", established(tunnel4), with(tcp4(ack, 12), 32, 0x80), to(tunnel4), "kernel_forwarded", "established"},
		{"UDP checksum 0", established(tunnel4), with(udp4(9), 26, 0, 0), to(tunnel4), "kernel_forwarded", "established"},
		{"UDP checksum 0, direct", established(direct4), with(udp4(9), 26, 0, 0), to(direct4), "kernel_forwarded", "established"},
		{"UDP checksum 0 over IPv6", established(tunnel6), with(udp6(9), 46, 0, 0), to(tunnel6), "kernel_forwarded", "established"},

		{"fragment of no VIP", nil, with(tcp(client4, nobody4, ack, 9), 6, 0x20, 0), up, "", ""},
		{"IPv6 fragment, first", established(tunnel4), extended(tcp6(ack, 9), 44, 0, 1), up, "kernel_slow", "established"},
		{"IPv6 fragment, middle", established(tunnel4), extended(tcp6(ack, 9), 44, 8, 1), up, "kernel_slow", ""},
		{"IPv6 fragment, last", established(tunnel4), extended(udp6(9), 44, 8, 0), up, "kernel_slow", ""},
		{"IPv6 fragment, the only one", established(tunnel4), extended(udp6(9), 44, 0, 0), up, "kernel_slow", "established"},
		{"IPv6 hop-by-hop options", established(tunnel4), extended(tcp6(ack, 9), 0, 0, 0), up, "kernel_slow", "established"},
		{"IPv6 routing", established(tunnel4), extended(tcp6(ack, 9), 43, 0, 0), up, "kernel_slow", "established"},
		{"IPv6 destination options", established(direct6), extended(udp6(9), 60, 0, 0), up, "kernel_slow", "established"},
		{"IPv6 destination options, policy's table", table(tunnel4), extended(tcp6(syn, 0), 60, 0, 0), up, "kernel_slow", ""},
		{"IPv6 no next header", established(tunnel4), with(tcp6(ack, 9), 6, 59), up, "", ""},
	})
}

// Fragments and options are the stack's.
func TestSlow(t *testing.T) {
	newTestbed(t).check(t, []fixture{
		{"first fragment", established(tunnel4), with(tcp4(ack, 9), 6, 0x20, 0), up, "kernel_slow", "established"},
		{"first fragment, DF", established(tunnel4), with(tcp4(ack, 9), 6, 0x60, 0), up, "kernel_slow", "established"},
		{"middle fragment", established(tunnel4), with(udp4(9), 6, 0x20, 9), up, "kernel_slow", ""},
		{"last fragment", established(tunnel4), with(udp4(9), 6, 0, 9), up, "kernel_slow", ""},
		{"fragment of the most offset", established(direct4), with(tcp4(ack, 9), 6, 0x1f, 0xff), up, "kernel_slow", ""},
		{"first fragment, daemon dead", all(established(tunnel4), dead), with(tcp4(ack, 9), 6, 0x20, 0), up, "kernel_slow", "established"},
		{"options", established(tunnel4), options4(tcp4(ack, 9)), up, "kernel_slow", "established"},
		{"options, SYN", pending(tunnel4), options4(tcp4(syn, 0)), up, "kernel_slow", "pending"},
		{"options, policy's table", table(tunnel4), options4(udp4(9)), up, "kernel_slow", ""},
		{"header shorter than a header", established(tunnel4), with(tcp4(ack, 9), 0, 0x44), up, "kernel_slow", ""},
		{"header of nothing", established(tunnel4), with(udp4(9), 0, 0x40), up, "kernel_slow", ""},
	})
}

// What a promiscuous link sees of others' packets, and what was sent to all, is
// not taken: another balancer forwards it, or nobody does.
func TestOthers(t *testing.T) {
	newTestbed(t).check(t, []fixture{
		{"for another station", established(tunnel4), addressed(tcp4(ack, 9), 2, 2, 2, 2, 2, 2), up, "", "established"},
		{"MAC differs at the end", established(tunnel4), addressed(tcp4(ack, 9), 0, 0, 0, 0, 0, 4), up, "", "established"},
		{"MAC differs in the middle", established(direct4), addressed(tcp4(ack, 9), 0, 0, 0, 4), up, "", "established"},
		{"MAC differs at the begin", established(tunnel6), addressed(tcp6(ack, 9), 2), up, "", "established"},
		{"broadcast", established(tunnel4), addressed(udp4(9), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), up, "", "established"},
		{"multicast", established(tunnel4), addressed(udp4(9), 1, 0, 0x5e, 1, 2, 3), up, "", "established"},
		{"new, policy's table", table(tunnel4), addressed(tcp4(syn, 0), 2, 2, 2, 2, 2, 2), up, "", ""},
		{"new, daemon dead", dead, addressed(tcp4(syn, 0), 2, 2, 2, 2, 2, 2), up, "", ""},
	})
}

// options4 puts four bytes of options into an IPv4 header.
func options4(in []byte) []byte {
	b := append(append(append([]byte(nil), in[:34]...), 1, 1, 1, 0), in[34:]...)
	return with(b, 0, 0x46, in[15], 0, byte(len(b)-14))
}

// extended puts an extension header of eight bytes into an IPv6 packet.
func extended(in []byte, kind uint8, offset, more uint8) []byte {
	b := append(append(append([]byte(nil), in[:54]...), in[20], 0, 0, offset|more, 0, 0, 0, 7), in[54:]...)
	return with(b, 4, 0, byte(len(b)-54), kind)
}

// What is neither TCP nor UDP, and what is no IP, goes on as it came.
func TestOtherTraffic(t *testing.T) {
	ip := func(proto uint8) []byte {
		return frame(packettest.IP(client4.Addr(), vip4.Addr(), proto, payload(40)))
	}
	ip6 := func(proto uint8) []byte {
		return frame(packettest.IP(client6.Addr(), vip6.Addr(), proto, payload(40)))
	}
	quote := packettest.TCP(vip4, client4, ack, payload(9))
	quote6 := packettest.TCP(vip6, client6, ack, payload(9))
	newTestbed(t).check(t, []fixture{
		{"ICMP echo", table(tunnel4), frame(packettest.IP(client4.Addr(), vip4.Addr(), 1, []byte{8, 0, 0, 0, 0, 1, 0, 1})), up, "", ""},
		{"ICMPv6 echo", table(tunnel4), frame(packettest.IP(client6.Addr(), vip6.Addr(), 58, []byte{128, 0, 0, 0, 0, 1, 0, 1})), up, "", ""},
		{"ICMP error about a flow", established(tunnel4), frame(packettest.ICMPError(client4.Addr(), 3, 4, quote)), up, "", "established"},
		{"ICMPv6 error about a flow", established(tunnel4), frame(packettest.ICMPError(client6.Addr(), 2, 0, quote6)), up, "", "established"},
		{"GRE", table(tunnel4), ip(47), up, "", ""},
		{"ESP over IPv6", table(tunnel4), ip6(50), up, "", ""},
		{"SCTP", table(tunnel4), ip(132), up, "", ""},
		{"UDP-Lite over IPv6", table(tunnel4), ip6(136), up, "", ""},
		{"IPv4 in IPv4", table(tunnel4), frame(packettest.IP(client4.Addr(), vip4.Addr(), 4, quote)), up, "", ""},
		{"SCTP, daemon dead", dead, ip(132), up, "", ""},
		{"ARP", table(tunnel4), ether(0x0806, payload(28)), up, "", ""},
		{"ARP, padded", table(tunnel4), padded(ether(0x0806, payload(28)), 60), up, "", ""},
		{"LLDP", table(tunnel4), ether(0x88cc, payload(46)), up, "", ""},
		{"MPLS", established(tunnel4), ether(0x8847, append([]byte{0, 1, 1, 64}, tcp4(ack, 9)[14:]...)), up, "", ""},
		{"PPPoE", established(tunnel4), ether(0x8864, append([]byte{0x11, 0, 0, 1, 0, 51, 0, 0x21}, tcp4(ack, 9)[14:]...)), up, "", ""},
		{"802.3 length", table(tunnel4), ether(46, payload(46)), up, "", ""},
		{"802.1Q in band", established(tunnel4), ether(0x8100, append([]byte{0, 5, 8, 0}, tcp4(ack, 9)[14:]...)), up, "", ""},
		{"802.1ad in band", established(tunnel4), ether(0x88a8, append([]byte{0, 5, 0x86, 0xdd}, tcp6(ack, 9)[14:]...)), up, "", ""},
		{"802.1Q in band, daemon dead", dead, ether(0x8100, append([]byte{0, 5, 8, 0}, tcp4(syn, 0)[14:]...)), up, "", ""},
		{"IPv6 called IPv4", established(tunnel4), ether(0x0800, tcp6(ack, 9)[14:]), up, "", "established"},
		{"IPv4 called IPv6", established(tunnel4), ether(0x86dd, tcp4(ack, 9)[14:]), up, "", "established"},
	})
}
