package packet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/packet/packettest"
)

var (
	client4 = netip.MustParseAddrPort("198.51.100.7:40000")
	vip4    = netip.MustParseAddrPort("192.0.2.1:443")
	client6 = netip.MustParseAddrPort("[2001:db8::7]:40000")
	vip6    = netip.MustParseAddrPort("[2001:db8:1::1]:443")
)

func key(src, dst netip.AddrPort, proto uint8) core.FlowKey {
	return core.FlowKey{Src: src.Addr().As16(), Dst: dst.Addr().As16(), SrcPort: src.Port(), DstPort: dst.Port(), Proto: proto}
}

// withExtension puts a hop-by-hop header of 8 bytes into an IPv6 packet.
func withExtension(b []byte) []byte {
	out := append([]byte{}, b[:40]...)
	out = append(out, b[6], 0, 1, 4, 0, 0, 0, 0)
	out[6] = extHopByHop
	out = append(out, b[40:]...)
	binary.BigEndian.PutUint16(out[4:], uint16(len(out)-40))
	return out
}

// withOptions puts four bytes of options into an IPv4 header.
func withOptions(b []byte) []byte {
	out := append([]byte{}, b[:20]...)
	out = append(out, 1, 1, 1, 0)
	out = append(out, b[20:]...)
	out[0] = 0x46
	binary.BigEndian.PutUint16(out[2:], uint16(len(out)))
	return out
}

func TestParse(t *testing.T) {
	syn4 := packettest.TCP(client4, vip4, SYN, nil)
	udp6 := packettest.UDP(client6, vip6, []byte("hello"))
	reply4 := packettest.TCP(vip4, client4, ACK, nil)
	reply6 := packettest.UDP(vip6, client6, []byte("answer"))
	router4, router6 := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8:2::1")
	laterFragment := packettest.UDP(client4, vip4, make([]byte, 64))
	binary.BigEndian.PutUint16(laterFragment[6:], 3)

	tests := []struct {
		name string
		in   []byte
		kind Kind
		key  core.FlowKey
	}{
		{"tcp4", syn4, Transport, key(client4, vip4, 6)},
		{"tcp4 with options", withOptions(syn4), Transport, key(client4, vip4, 6)},
		{"tcp4 with trailing bytes", append(bytes.Clone(syn4), 0, 0, 0), Transport, key(client4, vip4, 6)},
		{"udp4 of 5 bytes", packettest.UDP(client4, vip4, []byte("12345")), Transport, key(client4, vip4, 17)},
		{"udp6", udp6, Transport, key(client6, vip6, 17)},
		{"udp6 behind an extension", withExtension(udp6), Transport, key(client6, vip6, 17)},
		{"later fragment", laterFragment, Fragment, core.FlowKey{Src: client4.Addr().As16(), Dst: vip4.Addr().As16(), Proto: 17}},
		{"icmp unreachable", packettest.ICMPError(router4, 3, 4, reply4), ICMPError, key(client4, vip4, 6)},
		{"icmp with a short quote", packettest.ICMPError(router4, 11, 0, reply4[:28]), ICMPError, key(client4, vip4, 6)},
		{"icmp6 too big", packettest.ICMPError(router6, 2, 0, reply6), ICMPError, key(client6, vip6, 17)},
		{"icmp echo", packettest.ICMPError(router4, 8, 0, reply4), Other, core.FlowKey{Src: router4.As16(), Dst: vip4.Addr().As16(), Proto: 1}},
		{"gre", packettest.IP(client4.Addr(), vip4.Addr(), 47, make([]byte, 8)), Other, core.FlowKey{Src: client4.Addr().As16(), Dst: vip4.Addr().As16(), Proto: 47}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var p Packet
			if err := p.Parse(tt.in); err != nil {
				t.Fatal(err)
			}
			if p.Kind != tt.kind || p.Key != tt.key {
				t.Errorf("kind %d key %+v, want %d %+v", p.Kind, p.Key, tt.kind, tt.key)
			}
		})
	}
}

func TestParseFields(t *testing.T) {
	var p Packet
	b := packettest.TCP(client4, vip4, SYN|ACK, []byte("xyz"))
	if err := p.Parse(b); err != nil {
		t.Fatal(err)
	}
	if p.TCPFlags != SYN|ACK || !p.DF || p.Header != 20 || p.Length != 43 || p.Family != 4 {
		t.Errorf("%+v", p)
	}
}

// A fragment header is read for what it says of the datagram: whether there is
// more of it (RFC 6946), and where what is cut into fragments begins.
func TestParseFragmentHeader(t *testing.T) {
	whole := packettest.UDP(client6, vip6, []byte("hello"))
	header := func(b []byte, offset byte) []byte {
		out := append(bytes.Clone(b[:40]), b[6], 0, 0, offset, 0, 0, 0, 9)
		out[6] = extFragment
		out = append(out, b[40:]...)
		binary.BigEndian.PutUint16(out[4:], uint16(len(out)-40))
		return out
	}
	for name, tt := range map[string]struct {
		in                []byte
		atomic, fragment  bool
		front, head, size int
	}{
		"none":                    {whole, false, false, 0, 40, 0},
		"the whole datagram":      {header(whole, 0), true, false, 48, 48, 13},
		"a first one":             {header(whole, 1), false, true, 48, 48, 13},
		"a later one":             {header(whole, 8), false, true, 48, 48, 13},
		"a first one, options":    {header(withExtension(whole), 1), false, true, 48, 56, 21},
		"options, whole datagram": {withExtension(header(whole, 0)), true, false, 56, 56, 13},
	} {
		var p Packet
		if err := p.Parse(tt.in); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if p.Atomic != tt.atomic || p.IsFragment() != tt.fragment || p.Front != tt.front || p.Header != tt.head || tt.size != 0 && p.Carried() != tt.size {
			t.Errorf("%s: %+v", name, p)
		}
	}
	var p Packet
	if err := p.Parse(header(header(whole, 0), 1)); !errors.Is(err, ErrHeader) {
		t.Errorf("a fragment of a fragment: error %v", err)
	}
}

// Every truncation of every packet is refused or read as what it still is,
// and never beyond its end.
func TestParseTruncated(t *testing.T) {
	for _, b := range [][]byte{
		packettest.TCP(client4, vip4, SYN, nil),
		withExtension(packettest.UDP(client6, vip6, []byte("12345"))),
	} {
		for n := range len(b) {
			var p Packet
			if err := p.Parse(b[:n:n]); !errors.Is(err, ErrTruncated) {
				t.Errorf("%d of %d bytes: error %v, want %v", n, len(b), err, ErrTruncated)
			}
		}
	}
}

func TestTooBig(t *testing.T) {
	for _, b := range [][]byte{
		packettest.TCP(client4, vip4, ACK, make([]byte, 1460)),
		packettest.TCP(client6, vip6, ACK, make([]byte, 1440)),
		packettest.UDP(client4, vip4, make([]byte, 101)),
	} {
		var p, q Packet
		if err := p.Parse(b); err != nil {
			t.Fatal(err)
		}
		out := TooBig(make([]byte, MaxError), b, &p, 1452)
		if err := q.Parse(out); err != nil {
			t.Fatal(err)
		}
		if p.Family == 4 {
			if !packettest.Checksum4(out) || packettest.Sum(0, out[20:]) != 0xffff {
				t.Error("IPv4: wrong checksum")
			}
			if got := binary.BigEndian.Uint16(out[26:]); got != 1452 || out[20] != 3 || out[21] != 4 {
				t.Errorf("type %d code %d mtu %d", out[20], out[21], got)
			}
			continue
		}
		// Rebuilt by the independent builder, the packet must be the same.
		want := packettest.ICMPError(vip6.Addr(), 2, 0, b[:MaxError-48])
		binary.BigEndian.PutUint32(want[44:], 1452)
		if want[42], want[43] = out[42], out[43]; !bytes.Equal(want[40:42], out[40:42]) || !bytes.Equal(want[44:], out[44:]) {
			t.Error("IPv6: wrong message")
		}
		s := packettest.Sum(uint32(58+len(out)-40), out[8:])
		if s != 0xffff {
			t.Errorf("IPv6: checksum folds to %#x", s)
		}
	}
}

func TestTimeExceeded(t *testing.T) {
	for _, b := range [][]byte{packettest.TCP(client4, vip4, ACK, make([]byte, 1460)), packettest.UDP(client6, vip6, make([]byte, 9))} {
		var p Packet
		if err := p.Parse(b); err != nil {
			t.Fatal(err)
		}
		out := TimeExceeded(make([]byte, MaxError), b, &p)
		if p.Family == 4 {
			if !packettest.Checksum4(out) || packettest.Sum(0, out[20:]) != 0xffff || !bytes.Equal(out[20:22], []byte{11, 0}) || !bytes.Equal(out[28:], b[:548]) {
				t.Errorf("IPv4: %x", out)
			}
			continue
		}
		if want := packettest.ICMPError(vip6.Addr(), 3, 0, b); !bytes.Equal(out, want) {
			t.Errorf("IPv6: %x, want %x", out, want)
		}
	}
}

// After each hop the checksum is what a router that sums it up anew writes.
func TestHop(t *testing.T) {
	for id := range 3000 {
		b := packettest.TCP(client4, vip4, SYN, nil)
		binary.BigEndian.PutUint16(b[4:], uint16(id*23))
		b[8], b[10], b[11] = 255, 0, 0
		binary.BigEndian.PutUint16(b[10:], ^packettest.Sum(0, b[:20]))
		for ttl := 254; ttl >= 0; ttl -= 2 {
			Hop(b)
			Hop(b)
			if want := ttl - 1; ttl > 0 && (int(b[8]) != want || !packettest.Checksum4(b) || b[10] == 0xff && b[11] == 0xff) {
				t.Fatalf("identification %d, TTL %d: %x", id*23, b[8], b[:20])
			}
		}
	}
	b := packettest.UDP(client6, vip6, nil)
	want := bytes.Clone(b)
	want[7]--
	if Hop(b); !bytes.Equal(b, want) {
		t.Errorf("%x, want %x", b, want)
	}
}

// reassemble puts fragments together as a receiver would.
func reassemble(t *testing.T, fragments [][]byte, mtu int) []byte {
	t.Helper()
	payload := make([]byte, 65536)
	total := -1
	for _, f := range fragments {
		var p Packet
		if err := p.Parse(f); err != nil {
			t.Fatal(err)
		}
		if len(f) > mtu {
			t.Errorf("fragment of %d bytes, mtu %d", len(f), mtu)
		}
		if p.Family == 4 && !packettest.Checksum4(f) {
			t.Error("fragment with a wrong checksum")
		}
		n := copy(payload[p.Offset:], f[p.Header:])
		if !p.More {
			total = int(p.Offset) + n
		}
	}
	return payload[:total]
}

func TestFragmenter(t *testing.T) {
	data := make([]byte, 4001)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	for _, tt := range []struct {
		name string
		in   []byte
	}{
		{"ipv4", packettest.UDP(client4, vip4, data)},
		{"ipv4 with options", withOptions(packettest.UDP(client4, vip4, data))},
		{"ipv6", packettest.UDP(client6, vip6, data)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, mtu := range []int{576, 1280, 1472, 9000} {
				var p Packet
				var f Fragmenter
				if err := p.Parse(tt.in); err != nil {
					t.Fatal(err)
				}
				if !f.Start(tt.in, &p, mtu, 77) {
					t.Fatal("refused")
				}
				var all [][]byte
				for out := f.Next(make([]byte, mtu)); out != nil; out = f.Next(make([]byte, mtu)) {
					all = append(all, out)
				}
				if got := reassemble(t, all, mtu); !bytes.Equal(got, tt.in[p.Header:]) {
					t.Errorf("mtu %d: payload changed", mtu)
				}
			}
		})
	}
}

func TestFragmenterRefuses(t *testing.T) {
	var p Packet
	var f Fragmenter
	b := withExtension(packettest.UDP(client6, vip6, make([]byte, 2000)))
	if err := p.Parse(b); err != nil {
		t.Fatal(err)
	}
	if f.Start(b, &p, 1280, 1) {
		t.Error("cut a packet whose unfragmentable part it does not know")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(packettest.TCP(client4, vip4, SYN, nil))
	f.Add(packettest.UDP(client6, vip6, []byte("12345")))
	f.Add(withExtension(packettest.UDP(client6, vip6, nil)))
	f.Add(packettest.ICMPError(netip.MustParseAddr("203.0.113.1"), 3, 4, packettest.TCP(vip4, client4, ACK, nil)))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Packet
		if p.Parse(b) != nil {
			return
		}
		if p.Length > len(b) || p.Header > p.Length {
			t.Fatalf("length %d header %d of %d bytes", p.Length, p.Header, len(b))
		}
		TooBig(make([]byte, MaxError), b[:p.Length], &p, 1280)
		PortUnreachable(make([]byte, MaxError), b[:p.Length], &p)
		Reset(make([]byte, MaxError), b[:p.Length], &p)
		var g Fragmenter
		if g.Start(b, &p, 1280, 1) {
			dst := make([]byte, 1280)
			for range 100 {
				out := g.Next(dst)
				if out == nil {
					break
				}
				var q Packet
				if err := q.Parse(out); err != nil && p.Kind != Transport && q.Length != len(out) {
					t.Fatalf("fragment: %v", err)
				}
			}
		}
	})
}

func TestParseDoesNotAllocate(t *testing.T) {
	b := packettest.TCP(client6, vip6, SYN, nil)
	var p Packet
	if n := testing.AllocsPerRun(100, func() { _ = p.Parse(b) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkParse(b *testing.B) {
	for _, bb := range []struct {
		name string
		in   []byte
	}{
		{"tcp4", packettest.TCP(client4, vip4, SYN, nil)},
		{"tcp6", packettest.TCP(client6, vip6, SYN, nil)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			var p Packet
			for b.Loop() {
				_ = p.Parse(bb.in)
			}
		})
	}
}
