package fastpath

import (
	"testing"
)

// A known flow goes to its backend: in each mode, each family in each, with the
// MACs known to the program and not.
func TestModes(t *testing.T) {
	newTestbed(t).check(t, []fixture{
		{"TCP, IPv4 in IPv4", established(tunnel4), tcp4(ack, 9), to(tunnel4), "kernel_forwarded", "established"},
		{"UDP, IPv4 in IPv4", established(tunnel4), udp4(9), to(tunnel4), "kernel_forwarded", "established"},
		{"TCP, IPv6 in IPv4", established(tunnel4), tcp6(ack, 9), to(tunnel4), "kernel_forwarded", "established"},
		{"UDP, IPv6 in IPv4", established(tunnel4), udp6(9), to(tunnel4), "kernel_forwarded", "established"},
		{"TCP, IPv4 in IPv6", established(tunnel6), tcp4(ack, 9), to(tunnel6), "kernel_forwarded", "established"},
		{"UDP, IPv4 in IPv6", established(tunnel6), udp4(9), to(tunnel6), "kernel_forwarded", "established"},
		{"TCP, IPv6 in IPv6", established(tunnel6), tcp6(ack, 9), to(tunnel6), "kernel_forwarded", "established"},
		{"UDP, IPv6 in IPv6", established(tunnel6), udp6(9), to(tunnel6), "kernel_forwarded", "established"},
		{"TCP, IPv4 in IPv4, MACs unknown", established(neighbour4), tcp4(ack, 9), byTC(neighbour4), "kernel_forwarded", "established"},
		{"UDP, IPv4 in IPv4, MACs unknown", established(neighbour4), udp4(9), byTC(neighbour4), "kernel_forwarded", "established"},
		{"TCP, IPv6 in IPv4, MACs unknown", established(neighbour4), tcp6(ack, 9), byTC(neighbour4), "kernel_forwarded", "established"},
		{"UDP, IPv6 in IPv4, MACs unknown", established(neighbour4), udp6(9), byTC(neighbour4), "kernel_forwarded", "established"},
		{"TCP, IPv4 in IPv6, MACs unknown", established(neighbour6), tcp4(ack, 9), byTC(neighbour6), "kernel_forwarded", "established"},
		{"UDP, IPv4 in IPv6, MACs unknown", established(neighbour6), udp4(9), byTC(neighbour6), "kernel_forwarded", "established"},
		{"TCP, IPv6 in IPv6, MACs unknown", established(neighbour6), tcp6(ack, 9), byTC(neighbour6), "kernel_forwarded", "established"},
		{"UDP, IPv6 in IPv6, MACs unknown", established(neighbour6), udp6(9), byTC(neighbour6), "kernel_forwarded", "established"},
		{"TCP, IPv4 direct", established(direct4), tcp4(ack, 9), to(direct4), "kernel_forwarded", "established"},
		{"UDP, IPv4 direct", established(direct4), udp4(9), to(direct4), "kernel_forwarded", "established"},
		{"TCP, IPv6 direct", established(direct6), tcp6(ack, 9), to(direct6), "kernel_forwarded", "established"},
		{"UDP, IPv6 direct", established(direct6), udp6(9), to(direct6), "kernel_forwarded", "established"},
		{"TCP, IPv4 direct to IPv6", established(direct6), tcp4(ack, 9), to(direct6), "kernel_forwarded", "established"},
		{"TCP, IPv6 direct to IPv4", established(direct4), tcp6(ack, 9), to(direct4), "kernel_forwarded", "established"},
		{"TCP, IPv4 direct, MACs unknown", established(directNeighbour4), tcp4(ack, 9), byTC(directNeighbour4), "kernel_forwarded", "established"},
		{"UDP, IPv4 direct, MACs unknown", established(directNeighbour4), udp4(9), byTC(directNeighbour4), "kernel_forwarded", "established"},
		{"TCP, IPv6 direct, MACs unknown", established(directNeighbour6), tcp6(ack, 9), byTC(directNeighbour6), "kernel_forwarded", "established"},
		{"UDP, IPv6 direct, MACs unknown", established(directNeighbour6), udp6(9), byTC(directNeighbour6), "kernel_forwarded", "established"},
		{"TCP, back by the link it came by", established(hairpin), tcp4(ack, 9), to(hairpin), "kernel_forwarded", "established"},
		{"UDP over IPv6, back by the link it came by", established(hairpin), udp6(9), to(hairpin), "kernel_forwarded", "established"},
		{"TCP direct, back by the link it came by", established(hairpinDirect), tcp4(ack, 9), to(hairpinDirect), "kernel_forwarded", "established"},
		{"UDP over IPv6 direct, back by the link it came by", established(hairpinDirect), udp6(9), to(hairpinDirect), "kernel_forwarded", "established"},
	})
}

// Nothing gets to a backend that is paused, and what is for one that left goes
// up.
func TestAbsentBackends(t *testing.T) {
	newTestbed(t).check(t, []fixture{
		{"TCP, paused", established(paused), tcp4(ack, 9), drop, "kernel_paused", "established"},
		{"UDP, paused", established(paused), udp6(9), drop, "kernel_paused", "established"},
		{"SYN, paused", pending(paused), tcp4(syn, 0), drop, "kernel_paused", "pending"},
		{"FIN, paused", established(paused), tcp4(finAck, 0), drop, "kernel_paused", "established"},
		{"too long and paused", established(paused), tcp4(ack, mtu4), drop, "kernel_paused", "established"},
		{"TCP, gone", established(gone), tcp4(ack, 9), up, "kernel_stale kernel_upcalls", ""},
		{"UDP, gone", established(gone), udp6(9), up, "kernel_stale kernel_upcalls", ""},
		{"SYN, gone", established(gone), tcp6(syn, 0), up, "kernel_stale kernel_upcalls", ""},
		{"FIN, gone", established(gone), tcp4(finAck, 0), up, "kernel_stale kernel_upcalls", ""},
		{"pending, gone", pending(gone), tcp4(ack, 0), up, "kernel_stale kernel_upcalls", ""},
		{"TCP, replaced", established(replaced), tcp4(ack, 9), up, "kernel_stale kernel_upcalls", ""},
		{"UDP, replaced", established(replaced), udp4(9), up, "kernel_stale kernel_upcalls", ""},
		{"pending, replaced", pending(replaced), tcp6(ack, 9), up, "kernel_stale kernel_upcalls", ""},
		{"closed, replaced", closed(replaced), tcp6(ack, 9), up, "kernel_stale kernel_upcalls", ""},
		{"TCP, gone, daemon dead", all(established(gone), dead), tcp4(ack, 9), byTC(tunnel4), "kernel_stale kernel_placed kernel_forwarded", "pending"},
		{"UDP, replaced, daemon dead", all(established(replaced), dead), udp6(9), byTC(tunnel4), "kernel_stale kernel_placed kernel_forwarded", "pending"},
		{"TCP, gone, policy's table", all(established(gone), table(tunnel6)), tcp4(ack, 9), to(tunnel6), "kernel_stale kernel_placed kernel_forwarded", "pending"},
		{"UDP, replaced, policy's table", all(established(replaced), table(direct4)), udp4(9), to(direct4), "kernel_stale kernel_placed kernel_forwarded", "pending"},
	})
}
