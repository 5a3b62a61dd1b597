package fastpath

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
)

// at gives a TCP segment of IPv4 a sequence number.
func at(in []byte, seq uint32) []byte {
	return with(in, 20+4, binary.BigEndian.AppendUint32(nil, seq)...)
}

// tells makes a backend one that tells of its connections, and perhaps one that
// gets no new flows.
func (s *testbed) tells(t *testing.T, b backend, shut bool) {
	t.Helper()
	target := b.target(s.link)
	target.Tells, target.Shut = true, shut
	if err := s.SetTarget(target); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.SetTarget(b.target(s.link)); err != nil {
			t.Error(err)
		}
	})
}

// step is a segment, and what the flow is after it; "": it went up and there is
// none any more.
type step struct {
	flags uint8
	seq   uint32
	size  int
	left  string
	up    bool
}

func (s *testbed) walk(t *testing.T, given state, steps []step) {
	t.Helper()
	for _, xdp := range []bool{false, true} {
		if err := s.reset(); err != nil {
			t.Fatal(err)
		}
		if err := given(s); err != nil {
			t.Fatal(err)
		}
		for i, st := range steps {
			in := at(tcp4(st.flags, st.size), st.seq)
			_, verdict, _ := s.show(t, in, xdp, super{})
			f, ok := s.Find(keyOf(in))
			left := ""
			if ok {
				left = f.State()
			}
			if left != st.left || (verdict == pass) != st.up {
				t.Errorf("xdp %v, step %d: %q, up %v, want %+v", xdp, i, left, verdict == pass, st)
			}
		}
	}
}

// A FIN or RST counts only where the client is; what it sends afterwards takes it
// back.
func TestForgedEnds(t *testing.T) {
	s := newTestbed(t)
	s.walk(t, pending(tunnel4), []step{
		{ack, 501000, 100, "established", false},
		{rst, 0x9000_0000, 0, "established", false},
		{fin, 501100 + WINDOW, 0, "established", false},
		{rst, 501100 - WINDOW - 1, 0, "established", false},
		{syn, 77, 0, "established", false},
		{rst, 78, 0, "established", false},
		{rst | ack, 501100, 0, "closing", false},
		{ack, 501100, 0, "closing", false},
		{ack, 501100, 10, "established", false},
		{finAck, 501110, 0, "closing", false},
		{ack, 501111, 0, "closing", false},
		{syn, 5000, 0, "", true},
	})
	s.walk(t, pending(tunnel4), []step{ // the numbers wrap
		{ack, 0xffff_fff0, 100, "established", false},
		{fin, 84, 0, "closing", false},
	})
}

// WINDOW is that of flows.h.
const WINDOW = 1 << 16

// A SYN on the tuple of a flow whose backend tells of its connections stays with
// it: only the backend knows whether the connection is there. One that gets no
// new flows is asked.
func TestSYNOnATuple(t *testing.T) {
	s := newTestbed(t)
	s.tells(t, tunnel4, false)
	s.walk(t, established(tunnel4), []step{
		{ack, 1000, 0, "established", false},
		{rst, 1000, 0, "closing", false},
		{syn, 9000, 0, "closing", false},
	})
	k := keyOf(tcp4(ack, 0))
	s.walk(t, func(s *testbed) error {
		if err := established(tunnel4)(s); err != nil {
			return err
		}
		s.end(k, tunnel4.handle(), 0)
		return nil
	}, []step{{ack, 1000, 0, "ended", false}, {syn, 1, 0, "", true}})
	s.tells(t, tunnel4, true)
	s.walk(t, established(tunnel4), []step{{ack, 1, 9, "established", false}, {syn, 9000, 0, "established", true}})
	s.walk(t, all(established(tunnel4), lookup(tunnel6), dead), []step{{syn, 9000, 0, "established", false}}) // nobody can be asked
}

// is returns an At for one membership.
func is(h core.Handle) At { return func(_ core.ServiceID, g core.Handle) bool { return g == h } }

// end ends a flow and reports whether it has, without a doubt.
func (s *testbed) end(k *core.FlowKey, h core.Handle, ago time.Duration) bool {
	doubts := false
	found := s.End(k, is(h), ago, func(core.ServiceID, core.Handle) { doubts = true })
	return found && !doubts
}

func TestTruth(t *testing.T) {
	s := newTestbed(t)
	s.tells(t, tunnel4, false)
	k, h := keyOf(tcp4(ack, 0)), tunnel4.handle()
	given := func(f Flow) {
		t.Helper()
		if err := s.reset(); err != nil {
			t.Fatal(err)
		}
		f.Key, f.Backend, f.Service = *k, h, 1
		if !s.Put(&f) {
			t.Fatal("no room")
		}
	}
	state := func(what, want string) {
		t.Helper()
		f, ok := s.Find(k)
		if got := f.State(); !ok || got != want {
			t.Errorf("%s: %v %q, want %q", what, ok, got, want)
		}
	}
	given(Flow{Established: true, Closed: true, Age: time.Hour, Idle: time.Minute})
	s.Alive(k, is(h))
	state("alive", "established")
	if f, _ := s.Find(k); f.Idle > time.Second || !f.Proven {
		t.Errorf("alive: %+v", f)
	}
	given(Flow{Packets: 2})
	s.Alive(k, is(h))
	state("proven while pending", "established")

	given(Flow{Established: true, Age: time.Hour})
	if s.end(k, h+1, 0) || !s.end(k, h, time.Second) {
		t.Error("ended for another, or not for its backend")
	}
	state("ended", "ended")
	given(Flow{Established: true, Age: time.Second})
	if s.end(k, h, time.Minute) {
		t.Error("an end from before the flow ended it")
	}
	given(Flow{Established: true, Reopened: true, Age: time.Hour})
	if s.end(k, h, 0) {
		t.Error("an end counted though the tuple is in use again, perhaps")
	}
	given(Flow{Established: true, Age: time.Hour, Idle: time.Minute})
	s.Gone(k, is(h), 2*time.Minute)
	state("packets came since the question", "established")
	s.Gone(k, is(h), time.Second)
	state("gone", "ended")
	s.Delete(k)
	if _, ok := s.Find(k); ok || s.Gone(k, is(h), 0) || s.Alive(k, is(h)) {
		t.Error("it is still there")
	}
}

// Only proven flows get among the established ones when these fill.
func TestStrict(t *testing.T) {
	s := newTestbed(t)
	s.tells(t, tunnel4, false)
	if err := s.SetStrict(true); err != nil {
		t.Fatal(err)
	}
	s.walk(t, pending(tunnel4), []step{{ack, 1, 0, "pending", false}, {ack, 1, 0, "pending", false}})
	s.Alive(keyOf(tcp4(ack, 0)), is(tunnel4.handle()))
	if f, _ := s.Find(keyOf(tcp4(ack, 0))); f.State() != "established" {
		t.Errorf("proven: %q", f.State())
	}
	s.walk(t, pending(tunnel6), []step{{ack, 1, 0, "established", false}}) // it does not tell
	if err := s.SetStrict(false); err != nil {
		t.Fatal(err)
	}
	s.walk(t, pending(tunnel4), []step{{ack, 1, 0, "established", false}})
}

// Flows of those who tell end when the judge says so.
func TestJudge(t *testing.T) {
	s := newTestbed(t)
	s.tells(t, tunnel4, false)
	if err := s.reset(); err != nil {
		t.Fatal(err)
	}
	add := func(port uint16, b backend, f Flow) {
		f.Key, f.Backend, f.Service = *keyOf(tcp4(ack, 0)), b.handle(), 1
		f.Key.SrcPort = port
		if !s.Put(&f) {
			t.Fatal("no room")
		}
	}
	timeouts := core.Timeouts{TCP: time.Hour, TCPSyn: time.Minute, TCPFin: time.Minute, UDP: time.Minute}
	long := 2 * timeouts.TCP
	add(1, tunnel4, Flow{Established: true, Idle: long, Age: long})
	add(2, tunnel4, Flow{Established: true, Ended: true, Age: long})
	add(3, tunnel4, Flow{Idle: long, Age: long, Packets: 1}) // a SYN alone
	add(4, tunnel6, Flow{Established: true, Idle: long, Age: long})
	add(5, tunnel4, Flow{Established: true, Closed: true})
	judged, ended := map[uint16]bool{}, map[uint16]bool{}
	c, err := s.GC(&core.IdleTimeouts{All: timeouts}, func(f *Flow, silent bool) bool {
		judged[f.Key.SrcPort] = silent
		return f.Ended
	}, nil, func(f *Flow) { ended[f.Key.SrcPort] = true })
	if err != nil {
		t.Fatal(err)
	}
	if len(judged) != 3 || !judged[1] || judged[2] || judged[5] {
		t.Errorf("judged %v", judged)
	}
	if len(ended) != 3 || !ended[2] || !ended[3] || !ended[4] {
		t.Errorf("ended %v", ended)
	}
	if n := c.Active(tunnel4.handle()); n != 2 {
		t.Errorf("%d active, want 2: what closes has not ended", n)
	}
}
