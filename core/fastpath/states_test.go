package fastpath

import (
	"errors"
	"testing"
)

// What a packet does to its flow's state, and the state to the packet.
func TestStates(t *testing.T) {
	newTestbed(t).check(t, []fixture{
		{"SYN again", pending(tunnel4), tcp4(syn, 0), to(tunnel4), "kernel_forwarded", "pending"},
		{"SYN again, IPv6", pending(tunnel4), tcp6(syn, 0), to(tunnel4), "kernel_forwarded", "pending"},
		{"SYN again, ECN setup", pending(tunnel4), tcp4(syn|0xc0, 0), to(tunnel4), "kernel_forwarded", "pending"},
		{"SYN with data", pending(tunnel4), tcp4(syn, 9), to(tunnel4), "kernel_forwarded", "pending"},
		{"first ACK", pending(tunnel4), tcp4(ack, 0), to(tunnel4), "kernel_forwarded", "established"},
		{"first ACK, IPv6", pending(tunnel6), tcp6(ack, 0), to(tunnel6), "kernel_forwarded", "established"},
		{"first ACK, MACs unknown", pending(neighbour4), tcp4(ack, 0), byTC(neighbour4), "kernel_forwarded", "established"},
		{"first data, PSH", pending(tunnel4), tcp4(ack|8, 99), to(tunnel4), "kernel_forwarded", "established"},
		{"no flags at all", pending(tunnel4), tcp4(0, 0), to(tunnel4), "kernel_forwarded", "established"},
		{"SYN and ACK", pending(tunnel4), tcp4(synAck, 0), to(tunnel4), "kernel_forwarded", "established"},
		{"second datagram", pending(tunnel4), udp4(9), to(tunnel4), "kernel_forwarded", "established"},
		{"second datagram, IPv6 direct", pending(direct6), udp6(9), to(direct6), "kernel_forwarded", "established"},
		{"SYN of an open flow", established(tunnel4), tcp4(syn, 0), to(tunnel4), "kernel_forwarded", "established"},
		{"SYN of an open flow, IPv6 direct", established(direct6), tcp6(syn, 0), to(direct6), "kernel_forwarded", "established"},
		{"FIN", established(tunnel4), tcp4(finAck, 0), to(tunnel4), "kernel_forwarded", "closing"},
		{"FIN with data, IPv6", established(tunnel6), tcp6(finAck, 9), to(tunnel6), "kernel_forwarded", "closing"},
		{"FIN direct", established(direct4), tcp4(finAck, 0), to(direct4), "kernel_forwarded", "closing"},
		{"FIN, MACs unknown", established(neighbour6), tcp4(finAck, 0), byTC(neighbour6), "kernel_forwarded", "closing"},
		{"FIN of a pending flow", pending(tunnel4), tcp4(finAck, 0), to(tunnel4), "kernel_forwarded", "closing"},
		{"RST", established(tunnel4), tcp4(rst, 0), to(tunnel4), "kernel_forwarded", "closing"},
		{"RST and ACK, IPv6", established(tunnel4), tcp6(rst|ack, 0), to(tunnel4), "kernel_forwarded", "closing"},
		{"RST of a pending flow", pending(direct4), tcp4(rst, 0), to(direct4), "kernel_forwarded", "closing"},
		{"RST, daemon dead", all(established(tunnel4), dead), tcp4(rst, 0), byTC(tunnel4), "kernel_forwarded", "closing"},
		{"UDP with a TCP FIN's bytes", established(tunnel4), with(udp4(9), 33, fin), to(tunnel4), "kernel_forwarded", "established"},
		{"last ACK", closed(tunnel4), tcp4(ack, 0), to(tunnel4), "kernel_forwarded", "closing"},
		{"data after FIN, IPv6 direct", closed(direct6), tcp6(ack, 9), to(direct6), "kernel_forwarded", "established"},
		{"FIN again", closed(tunnel4), tcp4(finAck, 0), to(tunnel4), "kernel_forwarded", "closing"},
		{"RST after FIN", closed(tunnel4), tcp4(rst, 0), to(tunnel4), "kernel_forwarded", "closing"},
		{"SYN and ACK of a closed flow", closed(tunnel4), tcp4(synAck, 0), to(tunnel4), "kernel_forwarded", "closing"},
		{"SYN of a closed flow", closed(tunnel4), tcp4(syn, 0), up, "kernel_upcalls", ""},
		{"SYN of a closed flow, IPv6 direct", closed(direct6), tcp6(syn, 0), up, "kernel_upcalls", ""},
		{"SYN of a closed flow, paused", closed(paused), tcp4(syn, 0), up, "kernel_upcalls", ""},
		{"SYN of a closed flow, daemon dead", all(closed(tunnel4), lookup(tunnel6), dead), tcp4(syn, 0), byTC(tunnel6), "kernel_placed kernel_forwarded", "pending"},
		{"SYN of a closed flow, policy's table", all(closed(tunnel4), table(tunnel6)), tcp4(syn, 0), to(tunnel6), "kernel_placed kernel_forwarded", "pending"},
		{"known flow, daemon dead", all(established(tunnel6), dead), tcp4(ack, 9), byTC(tunnel6), "kernel_forwarded", "established"},
		{"known flow direct, daemon dead", all(established(direct4), dead), tcp4(ack, 9), byTC(direct4), "kernel_forwarded", "established"},
		{"known flow over IPv6 direct, daemon dead", all(established(direct6), dead), udp6(9), byTC(direct6), "kernel_forwarded", "established"},
		{"pending flow, daemon dead", all(pending(tunnel4), dead), tcp4(ack, 9), byTC(tunnel4), "kernel_forwarded", "established"},
		{"known flow, policy's table", all(established(tunnel6), table(tunnel4)), tcp4(ack, 9), to(tunnel6), "kernel_forwarded", "established"},
		{"pending flow, policy's table", all(pending(tunnel6), table(tunnel4)), udp4(9), to(tunnel6), "kernel_forwarded", "established"},
		{"known flow, lookup table elsewhere", all(established(direct4), lookup(tunnel4)), udp4(9), to(direct4), "kernel_forwarded", "established"},
	})
}

// A connection from its first to its last packet, placed by the daemon or by
// the program, and the next one from the same port.
func TestLife(t *testing.T) {
	s := newTestbed(t)
	for name, by := range map[string]state{"policy": lookup(tunnel6), "table": table(tunnel4)} {
		t.Run(name, func(t *testing.T) {
			if err := s.reset(); err != nil {
				t.Fatal(err)
			}
			if err := by(s); err != nil {
				t.Fatal(err)
			}
			for i, step := range []struct {
				flags uint8
				left  string
				n     uint64
			}{
				{syn, "pending", 1}, {syn, "pending", 2}, {ack, "established", 3}, {ack | 8, "established", 4}, {syn, "established", 5},
				{finAck, "closing", 6}, {ack, "closing", 7}, {syn, "pending", 1}, {ack, "established", 2}, {rst, "closing", 3},
			} {
				in := tcp4(step.flags, 0)
				_, verdict, out := s.show(t, in, true, super{})
				if verdict == pass { // the daemon's part
					placed := s.Offloader()
					placed.Add(keyOf(in), 1, tunnel4.handle(), 1, 40)
					placed.Flush()
				} else if got := keyOf(out).DstAddr().Addr(); got != data4 {
					t.Errorf("packet %d went to %v", i, got)
				}
				e, _ := s.Find(keyOf(in))
				if e.State() != step.left || e.Packets != step.n || e.Bytes != 40*step.n || e.Rule.String() != name || e.Backend != tunnel4.handle() || e.Service != 1 {
					t.Errorf("after packet %d: %s %+v", i, e.State(), e)
				}
			}
		})
	}
}

// A FIN that opens a flow's entry does not close the connection that comes
// next.
func TestLateFIN(t *testing.T) {
	s := newTestbed(t)
	for name, given := range map[string]state{"table": table(tunnel4), "daemon dead": dead} {
		t.Run(name, func(t *testing.T) {
			if err := errors.Join(s.reset(), given(s)); err != nil {
				t.Fatal(err)
			}
			for _, flags := range []uint8{finAck, syn, ack} {
				s.show(t, tcp4(flags, 0), true, super{})
			}
			if e, ok := s.Find(keyOf(tcp4(ack, 0))); !ok || e.State() != "established" {
				t.Errorf("the flow is left %v %q", ok, e.State())
			}
		})
	}
}
