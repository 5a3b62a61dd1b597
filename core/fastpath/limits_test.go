package fastpath

import (
	"errors"
	"maps"
	"net/netip"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/nettest"
	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// In a full table a flow stays pending, and its packets go their way.
func TestTableFull(t *testing.T) {
	s := newTestbed(t)
	if err := s.reset(); err != nil {
		t.Fatal(err)
	}
	v := balanceFlow{Handle: uint32(tunnel4.handle()), Service: 1}
	for i := range s.snapshot.Settings.Flows {
		k := flowKey(key(netip.AddrPortFrom(client4.Addr(), uint16(i)), vip4, core.ProtoTCP), s.gen.vips.byAddr[vip4.Addr().As16()])
		if err := s.maps().Flows.Put(&k, &v); err != nil {
			t.Fatal(err)
		}
	}
	if err := pending(tunnel4)(s); err != nil {
		t.Fatal(err)
	}
	for _, xdp := range []bool{false, true} {
		before := s.counters()
		_, verdict, out := s.show(t, tcp4(ack, 0), xdp, super{})
		if verdict != redirect || keyOf(out).DstAddr().Addr() != data4 {
			t.Errorf("verdict %d", int32(verdict))
		}
		want := map[string]uint64{"kernel_flows_full": 1, "kernel_forwarded": 1}
		if xdp {
			want["xdp_forwarded"] = 1
		}
		if got := grown(before, s.counters()); !maps.Equal(got, want) {
			t.Errorf("the counters grew by %v, want %v", got, want)
		}
		if e, ok := s.Find(keyOf(tcp4(ack, 0))); !ok || e.State() != "pending" {
			t.Errorf("the flow is left %v %s", ok, e.State())
		}
	}
}

// XDP drops what it has no room to put a header before: here metadata takes
// that room.
func TestNoRoom(t *testing.T) {
	s := newTestbed(t)
	if err := s.reset(); err != nil {
		t.Fatal(err)
	}
	const metadata = 208 // of 256 bytes
	in := append(make([]byte, metadata), tcp4(ack, 9)...)
	for b, want := range map[backend]uint32{tunnel4: 1 /* XDP_DROP */, tunnel6: 1, direct4: xdpRedirect} {
		if err := established(b)(s); err != nil {
			t.Fatal(err)
		}
		before := s.counters()
		opts := ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in)+256), Context: xdpContext{Data: metadata, DataEnd: uint32(len(in))}}
		verdict, err := s.gen.xdp.Run(&opts)
		if errors.Is(err, unix.EINVAL) {
			nettest.Unbuilt(t, "a trial run with so much metadata (Linux 6.12)")
		}
		if err != nil {
			t.Fatal(err)
		}
		if verdict != want {
			t.Errorf("backend %d: verdict %d, want %d", b, verdict, want)
		}
		if got := grown(before, s.counters()); want == 1 != (got["kernel_failed"] == 1) {
			t.Errorf("backend %d: the counters grew by %v", b, got)
		}
	}
}

// xdpContext is a struct xdp_md; what is before Data is metadata.
type xdpContext struct{ Data, DataEnd, DataMeta, IngressIfindex, RXQueueIndex, EgressIfindex uint32 }

// A flow keeps its outer source port, and flows have different ones.
func TestEntropy(t *testing.T) {
	s := newTestbed(t)
	const n = 256
	for name, b := range map[string]backend{"IPv4": tunnel4, "IPv6": tunnel6} {
		t.Run(name, func(t *testing.T) {
			ports := map[uint16]bool{}
			p := s.Offloader()
			for i := range n {
				client := netip.AddrPortFrom(client4.Addr(), uint16(10000+i))
				p.Add(key(client, vip4, core.ProtoTCP), 1, b.handle(), 1, 40)
				p.Flush()
				_, _, first := s.show(t, tcp(client, vip4, syn, 0), true, super{})
				_, _, next := s.show(t, tcp(client, vip4, ack, 99), false, super{})
				port := keyOf(first).SrcPort
				if again := keyOf(next).SrcPort; again != port || port < 0xc000 {
					t.Errorf("ports %d and %d of one flow", port, again)
				}
				ports[port] = true
			}
			if len(ports) < n*9/10 {
				t.Errorf("%d flows have %d ports", n, len(ports))
			}
		})
	}
}
