package packet

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/caplance/caplance/core/packet/packettest"
)

// segment returns one with numbers, and a checksum that they are not in.
func segment(src, dst netip.AddrPort, flags uint8, seq, ack uint32, data int) []byte {
	b := packettest.TCP(src, dst, flags, make([]byte, data))
	t := b[len(b)-20-data:]
	binary.BigEndian.PutUint32(t[4:], seq)
	binary.BigEndian.PutUint32(t[8:], ack)
	return b
}

// The numbers of a reset are those of RFC 9293, §3.10.7.1; the rest is rebuilt by
// the independent builder.
func TestReset(t *testing.T) {
	for _, tt := range []struct {
		name     string
		flags    uint8
		data     int
		seq, ack uint32
		want     uint8
	}{
		{"SYN", SYN, 0, 0, 1001, RST | ACK},
		{"SYN with data", SYN, 7, 0, 1008, RST | ACK},
		{"SYN and FIN", SYN | FIN, 0, 0, 1002, RST | ACK},
		{"neither", 0, 5, 0, 1005, RST | ACK},
		{"ACK", ACK, 0, 77, 0, RST},
		{"data", ACK, 100, 77, 0, RST},
		{"FIN", FIN | ACK, 0, 77, 0, RST},
		{"SYN-ACK", SYN | ACK, 0, 77, 0, RST},
	} {
		for _, ends := range [][2]netip.AddrPort{{client4, vip4}, {client6, vip6}} {
			t.Run(tt.name+" "+ends[0].String(), func(t *testing.T) {
				b := segment(ends[0], ends[1], tt.flags, 1000, 77, tt.data)
				var p Packet
				if err := p.Parse(b); err != nil {
					t.Fatal(err)
				}
				dirty := bytes.Repeat([]byte{0xff}, MaxError)
				got := Reset(dirty, b, &p)
				want := packettest.TCP(ends[1], ends[0], tt.want, nil)
				h := want[len(want)-20:]
				binary.BigEndian.PutUint32(h[4:], tt.seq)
				binary.BigEndian.PutUint32(h[8:], tt.ack)
				h[14], h[15] = 0, 0 // no window
				resum(want, ends[1].Addr(), ends[0].Addr())
				if !bytes.Equal(got, want) {
					t.Errorf("got\n%x, want\n%x", got, want)
				}
			})
		}
	}
}

// resum writes the checksums anew, and clears DF, which resets have not.
func resum(b []byte, src, dst netip.Addr) {
	h := b[len(b)-20:]
	h[16], h[17] = 0, 0
	pseudo := uint32(packettest.Sum(20+6, src.AsSlice())) + uint32(packettest.Sum(0, dst.AsSlice()))
	binary.BigEndian.PutUint16(h[16:], ^packettest.Sum(pseudo, h))
	if src.Is4() {
		b[6], b[10], b[11] = 0, 0, 0
		binary.BigEndian.PutUint16(b[10:], ^packettest.Sum(0, b[:20]))
	}
}

// What is answered to nobody.
func TestNoReset(t *testing.T) {
	short := packettest.TCP(client4, vip4, SYN, nil)
	short[32] = 15 << 4 // a header longer than the packet
	tiny := packettest.TCP(client4, vip4, SYN, nil)
	tiny[32] = 4 << 4
	first := packettest.TCP(client4, vip4, SYN, make([]byte, 8))
	first[6] = 0x20
	for name, b := range map[string][]byte{
		"RST": packettest.TCP(client4, vip4, RST, nil), "RST and ACK": packettest.TCP(client6, vip6, RST|ACK, nil),
		"UDP": packettest.UDP(client4, vip4, make([]byte, 40)), "header too long": short, "header too short": tiny, "fragment": first,
	} {
		var p Packet
		if err := p.Parse(b); err != nil {
			t.Fatal(err)
		}
		if out := Reset(make([]byte, MaxError), b, &p); out != nil {
			t.Errorf("%s: answered by %x", name, out)
		}
	}
}

func TestPortUnreachable(t *testing.T) {
	for _, ends := range [][2]netip.AddrPort{{client4, vip4}, {client6, vip6}} {
		b := packettest.UDP(ends[0], ends[1], []byte("anybody?"))
		var p Packet
		if err := p.Parse(b); err != nil {
			t.Fatal(err)
		}
		got := PortUnreachable(bytes.Repeat([]byte{0xff}, MaxError), b, &p)
		typ, code := uint8(3), uint8(3)
		if p.Family == 6 {
			typ, code = 1, 4
		}
		want := packettest.ICMPError(ends[1].Addr(), typ, code, b)
		if p.Family == 4 { // without DF
			want[6], want[10], want[11] = 0, 0, 0
			binary.BigEndian.PutUint16(want[10:], ^packettest.Sum(0, want[:20]))
		}
		if !bytes.Equal(got, want) {
			t.Errorf("got\n%x, want\n%x", got, want)
		}
	}
}
