package datapath

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/caplance/caplance/core/packet/packettest"
	"github.com/caplance/caplance/core/verdict"
)

// homes returns where the first worker's flows of some clients are.
func (r *rig) homes(clients int) map[int]netip.Addr {
	out := map[int]netip.Addr{}
	for n := range clients {
		for range 2 { // a flow of one packet gives way to others
			out[n] = r.backend(packettest.UDP(client(n), vip4, []byte("small")))
		}
	}
	return out
}

// All datagrams of these tests have the same identification.
func parts(t *testing.T, n, size int) [][]byte {
	return fragments(t, packettest.UDP(client(n), vip4, make([]byte, size)), 1280)
}

// Two sockets of one client may use one identification, one after the other: a
// first fragment always says anew whose datagram it is, and a later one that
// overtakes it waits.
func TestOneIdentificationTwoSockets(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 0, 2}} {
		r := newRig(t, 1)
		r.setBackends(7, nil, nil)
		home := r.homes(2)
		for i := range 30 {
			var got []sent
			for _, k := range order {
				got = append(got, r.give(0, parts(t, i%2, 3000)[k])...)
			}
			if len(got) != 3 {
				t.Fatalf("order %v: %d of 3 fragments left", order, len(got))
			}
			for _, g := range got {
				if g.to != home[i%2] {
					t.Fatalf("order %v: datagram %d to %v, flow is at %v", order, i, g.to, home[i%2])
				}
			}
		}
		if n := r.workers[0].tracker.known.len(); n != 0 && !slices.Equal(order, []int{1, 0, 2}) {
			t.Errorf("order %v: %d whole datagrams remembered", order, n)
		}
	}
}

// First fragments from nowhere, to whatever port, do not keep others from theirs.
func TestFloodOfFirstFragments(t *testing.T) {
	for name, port := range map[string]uint16{"served": 80, "unserved": 81} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 1)
			r.setBackends(7, nil, nil)
			home := r.homes(1)
			flood := fragments(t, packettest.UDP(client(2), netip.AddrPortFrom(vip4.Addr(), port), make([]byte, 3000)), 1280)[0]
			spoof := func(n int) {
				for i := range n {
					binary.BigEndian.PutUint32(flood[12:], 0x0a000000+uint32(i))
					r.workers[0].Packet(flood, 0)
				}
				r.workers[0].Flush()
			}
			spoof(3 * maxTracked)
			for _, b := range parts(t, 0, 3000) {
				if out := r.give(0, b); len(out) != 1 || out[0].to != home[0] {
					t.Fatalf("%d fragments left, flow is at %v", len(out), home[0])
				}
				spoof(maxTracked / 4) // half a second of a bad flood
			}
			if k := r.workers[0].tracker.known.len(); k > maxTracked || port == 81 && k > 0 {
				t.Errorf("%d datagrams known", k)
			}
			if f := r.workers[0].tracker.foreign.len(); f > maxForeign {
				t.Errorf("%d datagrams of the host known", f)
			}
		})
	}
}

// Sixty datagrams of twenty fragments, the last fragments of all first, arrive
// whole.
func TestFragmentsInReverse(t *testing.T) {
	r := newRig(t, 2)
	r.setBackends(5, nil, nil)
	var in [60][][]byte
	for n := range in { // each client has an address of its own
		in[n] = fragments(t, packettest.UDP(client(256*n+1), vip4, make([]byte, 20*1200-8)), 1220)
	}
	for k := range 20 {
		for n := range in {
			r.give(0, in[n][19-k])
		}
	}
	r.tunnels[1].out = nil
	r.workers[1].Tick(time.Now())
	if got := len(r.tunnels[1].out); got != 1200 {
		t.Errorf("%d of 1200 fragments left, %d lost, %d steered in vain", got, r.count(FragmentsLost), r.count(SteeredLost))
	}
}

// Where too many wait the oldest datagram gives way, and each loss is counted.
func TestWaitingRoomIsShort(t *testing.T) {
	r := newRig(t, 1)
	r.setBackends(5, nil, nil)
	old, young := parts(t, 1, 3000), parts(t, 256, 3000)
	r.give(0, old[1])
	r.give(0, old[2])
	stray := parts(t, 2, 3000)[1]
	for i := range maxParked - 1 {
		binary.BigEndian.PutUint32(stray[12:], 0x0a000000+uint32(i))
		r.give(0, stray)
	}
	if n := r.count(FragmentsLost); n != 2 {
		t.Errorf("%d lost, want both of the oldest datagram", n)
	}
	r.give(0, young[1])
	if out := r.give(0, young[0]); len(out) != 2 {
		t.Errorf("%d fragments of the youngest datagram left, want 2", len(out))
	}
	r.workers[0].Tick(time.Now().Add(reassembly + time.Second))
	if n, want := r.count(FragmentsLost), uint64(2+maxParked-1); n != want || r.workers[0].tracker.parked != 0 {
		t.Errorf("%d lost, want %d; %d still wait", n, want, r.workers[0].tracker.parked)
	}
}

// A datagram to no service's port goes to the host; what waited for its first
// fragment is lost, since the kernel has forgotten it.
func TestFragmentsOfTheHost(t *testing.T) {
	r := newRig(t, 1)
	r.setBackends(1, nil, nil)
	b := fragments(t, packettest.UDP(client(1), netip.AddrPortFrom(vip4.Addr(), 81), make([]byte, 3000)), 1280)
	w := r.workers[0]
	if w.Packet(b[2], 0) != verdict.Stolen || w.Packet(b[0], 0) != verdict.Accept || w.Packet(b[1], 0) != verdict.Accept {
		t.Error("the host did not get its fragments")
	}
	if n := r.count(FragmentsLost); n != 1 {
		t.Errorf("%d fragments lost, want 1", n)
	}
}

// extend puts an extension header of 8 bytes at a place in an IPv6 packet whose
// protocol field there is at next.
func extend(b []byte, at, next int, typ uint8, body ...byte) []byte {
	h := append([]byte{b[next]}, body...)
	b = slices.Insert(b, at, h...)
	b[next] = typ
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	return b
}

func destinationOptions(b []byte, at, next int) []byte {
	return extend(b, at, next, 60, 0, 1, 4, 0, 0, 0, 0)
}

var client6 = netip.MustParseAddrPort("[2001:db8::7]:10001") // worker 1's

// An IPv6 packet with a fragment header that is the whole datagram (RFC 6946) is
// its flow's owner's, and no fragment.
func TestAtomicFragment(t *testing.T) {
	r := newRig(t, 2)
	r.setBackends(5, nil, nil)
	whole := r.give(1, packettest.UDP(client6, vip6, []byte("small")))
	for name, b := range map[string][]byte{
		"alone":          extend(packettest.UDP(client6, vip6, []byte("small")), 40, 6, 44, 0, 0, 0, 0, 0, 0, 9),
		"before options": extend(destinationOptions(packettest.UDP(client6, vip6, []byte("small")), 40, 6), 40, 6, 44, 0, 0, 0, 0, 0, 0, 9),
		"behind options": destinationOptions(extend(packettest.UDP(client6, vip6, []byte("small")), 40, 6, 44, 0, 0, 0, 0, 0, 0, 9), 40, 6),
	} {
		r.tunnels[1].out = nil
		r.give(0, b)
		r.workers[1].Tick(time.Now())
		if out := r.tunnels[1].out; len(out) != 1 || out[0].to != whole[0].to {
			t.Errorf("%s: went to %v, flow is at %v", name, out, whole[0].to)
		}
	}
	if n := r.workers[0].table.Len() + r.workers[0].tracker.known.len(); n != 0 {
		t.Errorf("%d entries at the worker that does not own the flow", n)
	}
}

// Destination options may stand before the fragment header, or behind it, where
// later fragments do not name the transport protocol.
func TestFragmentsWithDestinationOptions(t *testing.T) {
	for name, cut := range map[string]func([][]byte) [][]byte{
		"before": func(list [][]byte) [][]byte {
			for i := range list {
				list[i] = destinationOptions(list[i], 40, 6)
			}
			return list
		},
		"behind": func(list [][]byte) [][]byte {
			list[0] = destinationOptions(list[0], 48, 40)
			for i := range list[1:] {
				list[i+1][40] = 60
				list[i+1][43] += 8 // the offset
			}
			return list
		},
	} {
		for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}} {
			r := newRig(t, 2)
			r.setBackends(5, nil, nil)
			whole := r.give(1, packettest.UDP(client6, vip6, []byte("small")))
			r.tunnels[1].out = nil
			list := cut(fragments(t, packettest.UDP(client6, vip6, make([]byte, 3000)), 1280))
			for _, i := range order {
				r.give(0, list[i])
			}
			r.workers[1].Tick(time.Now())
			out := r.tunnels[1].out
			if len(out) != 3 || out[0].to != whole[0].to || out[1].to != whole[0].to || out[2].to != whole[0].to {
				t.Errorf("%s, order %v: %d fragments left, to %v", name, order, len(out), out)
			}
			if n := r.workers[0].tracker.known.len(); n != 0 {
				t.Errorf("%s, order %v: a whole datagram is remembered", name, order)
			}
		}
	}
}
