package fastpath

import (
	"bytes"
	"maps"
	"strings"
	"testing"

	"github.com/caplance/caplance/core"
)

// What the programs say (linux/pkt_cls.h, linux/bpf.h).
const (
	pass     = ^uint32(0)
	shot     = 2
	redirect = 7

	xdpDrop     = 1
	xdpPass     = 2
	xdpTX       = 3
	xdpRedirect = 4
)

// fixture is one packet and what must become of it: by TC alone, and by TC
// behind XDP.
type fixture struct {
	name  string
	given state  // what the programs know; nil: nothing of the flow, and the daemon is alive
	in    []byte // a frame
	want  fate
	grows string // the counters that grow by one, but for xdp_forwarded
	left  string // the flow's state afterwards, "" when it has no entry
}

// fate is what becomes of a packet.
type fate struct {
	verdict uint32 // TC's
	to      backend
	xdp     bool // XDP forwards or drops it
}

var up, drop, dropEarly = fate{verdict: pass}, fate{verdict: shot}, fate{verdict: shot, xdp: true}

// to forwards, by XDP where there is XDP and the MACs are known.
func to(b backend) fate { return fate{redirect, b, b.target(0).MAC != nil} }

// byTC forwards what XDP leaves to TC.
func byTC(b backend) fate { return fate{redirect, b, false} }

// byXDP returns XDP's verdict.
func (f fate) byXDP() uint32 {
	switch {
	case !f.xdp:
		return xdpPass
	case f.verdict == shot:
		return xdpDrop
	case f.to.target(0).Link == inLink:
		return xdpTX
	}
	return xdpRedirect
}

// check shows every fixture to TC, and to XDP with TC behind it.
func (s *testbed) check(t *testing.T, fixtures []fixture) {
	t.Helper()
	for _, f := range fixtures {
		for name, xdp := range map[string]bool{"TC": false, "XDP": true} {
			t.Run(f.name+"/"+name, func(t *testing.T) {
				s.checkOne(t, &f, xdp, super{})
			})
		}
	}
}

// checkTC shows every fixture to TC alone.
func (s *testbed) checkTC(t *testing.T, fixtures []fixture) {
	t.Helper()
	for _, f := range fixtures {
		t.Run(f.name, func(t *testing.T) { s.checkOne(t, &f, false, super{}) })
	}
}

func (s *testbed) checkOne(t *testing.T, f *fixture, xdp bool, gso super) {
	t.Helper()
	if err := s.reset(); err != nil {
		t.Fatal(err)
	}
	if f.given != nil {
		if err := f.given(s); err != nil {
			t.Fatal(err)
		}
	}
	k := keyOf(f.in)
	before, known, total := s.counters(), s.known(k, f.want.to), s.Total(f.want.to.handle())
	byXDP, verdict, out := s.show(t, f.in, xdp, gso)
	if verdict != f.want.verdict || xdp && byXDP != f.want.byXDP() {
		t.Errorf("verdicts %d and %d, want %d and %d", byXDP, int32(verdict), f.want.byXDP(), int32(f.want.verdict))
	}
	want, grows := f.in, strings.Fields(f.grows)
	if f.want.verdict == redirect {
		want = s.forwarded(f.in, f.want.to, k.TunnelPort(), gso)
		packets, size := uint64(max(gso.segs, 1)), uint64(length(f.in, gso))
		known.Packets, known.Bytes = known.Packets+packets, known.Bytes+size
		total.Packets, total.Bytes = total.Packets+packets, total.Bytes+size
		s.checkTotal(t, f.want.to, total)
	}
	if !bytes.Equal(out, want) {
		t.Errorf("the frame is\n%x, want\n%x", out, want)
	}
	if byXDP == xdpTX || byXDP == xdpRedirect {
		grows = append(grows, "xdp_forwarded")
	}
	if got := grown(before, s.counters()); !maps.Equal(got, ones(grows)) {
		t.Errorf("the counters grew by %v, want 1 of %v", got, grows)
	}
	s.checkFlow(t, f, k, known.Packets, known.Bytes)
}

// checkFlow checks what the packet left of its flow; its counts, when it was
// forwarded.
func (s *testbed) checkFlow(t *testing.T, f *fixture, k *core.FlowKey, packets, size uint64) {
	t.Helper()
	e, ok := s.Find(k)
	if ok != (f.left != "") || ok && e.State() != f.left {
		t.Errorf("the flow is left %v %q, want %q", ok, e.State(), f.left)
	}
	if ok && f.want.verdict == redirect && (e.Backend != f.want.to.handle() || e.Packets != packets || e.Bytes != size) {
		t.Errorf("the flow is left %+v, want %d packets and %d bytes", e, packets, size)
	}
}

// known returns the flow that goes to a backend, if there is one.
func (s *testbed) known(k *core.FlowKey, to backend) Flow {
	if f, ok := s.Find(k); ok && f.Backend == to.handle() {
		return f
	}
	return Flow{}
}

// checkTotal checks what was forwarded to a backend; TestPlacedSums checks the
// rest.
func (s *testbed) checkTotal(t *testing.T, b backend, want Sum) {
	t.Helper()
	got := s.Total(b.handle())
	got.ByTable, got.ByFallback = want.ByTable, want.ByFallback
	if got != want {
		t.Errorf("the backend's sum is %+v, want %+v", got, want)
	}
}

// show runs a frame through the programs as a link would: TC sees what XDP
// passes on. Its verdict is redirect for what XDP forwarded.
func (s *testbed) show(t *testing.T, in []byte, xdp bool, gso super) (byXDP, verdict uint32, out []byte) {
	t.Helper()
	if xdp {
		byXDP, out = run(t, s.gen.xdp, in, nil)
		switch byXDP {
		case xdpPass:
		case xdpDrop:
			return byXDP, shot, out
		default:
			return byXDP, redirect, out
		}
		if !bytes.Equal(out, in) {
			t.Errorf("what XDP passes on is changed: %x", out)
		}
	}
	verdict, out = run(t, s.gen.tc, in, gso.context())
	return xdpPass, verdict, out
}

func (s *testbed) counters() map[string]uint64 {
	m := map[string]uint64{}
	s.Counters(m)
	return m
}

// grown returns by how much counters grew, of those that did.
func grown(before, after map[string]uint64) map[string]uint64 {
	m := map[string]uint64{}
	for name, n := range after {
		if n != before[name] {
			m[name] = n - before[name]
		}
	}
	return m
}

func ones(names []string) map[string]uint64 {
	m := map[string]uint64{}
	for _, name := range names {
		m[name] = 1
	}
	return m
}
