package datapath

import (
	"net/netip"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/flow"
	"github.com/caplance/caplance/core/packet"
	"github.com/caplance/caplance/core/packet/packettest"
)

// fakeTruth takes questions and has a verdict.
type fakeTruth struct {
	over   bool
	judged []Signs
	asked  []core.FlowKey
}

func (f *fakeTruth) Judge(s *Signs) bool {
	f.judged = append(f.judged, *s)
	return f.over
}

func (f *fakeTruth) Doubt(_ core.ServiceID, _ core.Handle, k *core.FlowKey) {
	f.asked = append(f.asked, *k)
}

// truthRig returns one worker whose backends tell of their connections.
func truthRig(t *testing.T, backends int) (*rig, *fakeTruth) {
	r := newRig(t, 1)
	truth := &fakeTruth{}
	r.workers[0].Truth = truth
	r.setBackends(backends, nil, nil)
	r.tell()
	return r, truth
}

// tell has all backends tell of their connections.
func (r *rig) tell() {
	for i := range r.backends {
		r.backends[i].Tells = true
	}
	r.publish(nil)
}

func (r *rig) entry(n int) *flow.Entry {
	k := tupleOf(n)
	return r.workers[0].table.Find(&k, k.Hash(r.workers[0].seed))
}

func tupleOf(n int) core.FlowKey {
	return core.FlowKey{Src: client(n).Addr().As16(), Dst: vip4.Addr().As16(), SrcPort: client(n).Port(), DstPort: 80, Proto: core.ProtoTCP}
}

func segment(n int, flags uint8) []byte { return packettest.TCP(client(n), vip4, flags, nil) }

func nameOf(a netip.Addr) string { return "b" + string('0'+a.AsSlice()[3]) }

// FIN, RST and SYN neither end nor move a flow whose backend tells; what that says
// does.
func TestTuplesOfThoseWhoTell(t *testing.T) {
	r, _ := truthRig(t, 3)
	w := r.workers[0]
	first := r.backend(syn(1))
	for _, flags := range []uint8{packet.ACK, packet.FIN | packet.ACK, packet.SYN, packet.RST, packet.SYN} {
		if r.backend(segment(1, flags)) != first {
			t.Fatalf("flags %#x moved the flow", flags)
		}
	}
	h := r.entry(1).Backend
	if n := r.counters.Total(h).Active; n != 1 {
		t.Errorf("%d active flows, want 1", n)
	}
	w.epoch = w.epoch.Add(-time.Second)
	w.beginBatch()
	w.Told([]Word{{Key: tupleOf(1), Backend: "another", State: Gone}})
	if r.entry(1).Ended {
		t.Error("another backend ended the flow")
	}
	w.Told([]Word{{Key: tupleOf(1), Backend: nameOf(first), State: Gone}})
	if n := r.counters.Total(h).Active; n != 0 || !r.entry(1).Ended {
		t.Errorf("%d active flows after its end", n)
	}
	if r.backend(segment(1, packet.ACK)) != first {
		t.Error("the last ACK went elsewhere")
	}
	if r.backend(syn(1)) == first {
		t.Error("the next connection was not scheduled")
	}
}

// An end that is told may be that of an earlier connection: then it is asked
// about.
func TestLateEnds(t *testing.T) {
	r, truth := truthRig(t, 1)
	w := r.workers[0]
	r.backend(syn(1))
	r.backend(segment(1, packet.ACK))
	ended := Word{Key: tupleOf(1), Backend: "b0", State: Ended, Ago: time.Minute}
	w.Told([]Word{ended})
	if r.entry(1).Ended || len(truth.asked) != 1 {
		t.Errorf("ended before it began; %d questions", len(truth.asked))
	}
	r.backend(syn(1))
	ended.Ago = 0
	w.Told([]Word{ended})
	if r.entry(1).Ended || len(truth.asked) != 2 {
		t.Errorf("ended though its tuple is used again; %d questions", len(truth.asked))
	}
	w.Told([]Word{{Key: tupleOf(1), Backend: "b0", State: Gone, Ago: time.Minute}})
	if r.entry(1).Ended {
		t.Error("gone though packets came since the question")
	}
	w.Told([]Word{{Key: tupleOf(1), Backend: "b0", State: Alive}})
	w.Told([]Word{ended})
	if !r.entry(1).Ended {
		t.Error("it was alive, and has ended now")
	}
}

// A SYN on the tuple of a flow at a backend that gets no new ones waits for the
// answer.
func TestHeldSYN(t *testing.T) {
	for _, tt := range []struct {
		name  string
		word  *Word // nil: no answer
		left  int
		moves bool
	}{
		{"gone", &Word{State: Gone}, 1, true},
		{"alive", &Word{State: Alive}, 1, false},
		{"it cannot tell", &Word{State: Unknown}, 1, false},
		{"no answer", nil, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, truth := truthRig(t, 2)
			w, tun := r.workers[0], r.tunnels[0]
			first := r.backend(syn(1))
			r.backend(segment(1, packet.ACK))
			r.setBackends(2, map[int]core.BackendState{int(first.AsSlice()[3]): core.Draining}, nil)
			r.tell()
			if out := r.give(0, syn(1)); len(out) != 0 || len(truth.asked) != 1 || truth.asked[0] != tupleOf(1) {
				t.Fatalf("%d packets left, asked about %v", len(out), truth.asked)
			}
			r.give(0, syn(1)) // once more
			if len(truth.asked) != 1 {
				t.Error("asked twice")
			}
			tun.out = nil
			w.Told([]Word{{Key: tupleOf(1), Backend: "another", State: Gone}})
			if tt.word != nil {
				tt.word.Key, tt.word.Backend = tupleOf(1), nameOf(first)
				w.Told([]Word{*tt.word})
			} else {
				w.epoch = w.epoch.Add(-time.Second)
				w.Tick(time.Now())
			}
			w.Flush()
			if len(tun.out) != tt.left || tt.left > 0 && (tun.out[0].to != first) != tt.moves {
				t.Errorf("left: %v, was at %v", tun.out, first)
			}
			if got := r.backend(segment(1, packet.ACK)); !tt.moves && got != first {
				t.Errorf("its flow went to %v, was at %v", got, first)
			}
			if len(w.held) != 0 {
				t.Error("it is still held")
			}
		})
	}
}

// While a SYN waits, the backend that gets no new flows may become one that does,
// as when a balancer that hung hears of its agents again: what lives there stays.
func TestHeldSYNWhileItsBackendReturns(t *testing.T) {
	r, k := kernelRig(t, 2)
	truth := &fakeTruth{}
	w := r.workers[0]
	w.Truth = truth
	r.tell()
	placed := r.snap.Pools.Of(0).Members[0].Handle // by the kernel: no worker knows
	k.flows[tupleOf(1)] = placed
	r.setBackends(2, map[int]core.BackendState{0: core.Lost}, nil)
	r.tell()
	if out := r.give(0, syn(1)); len(out) != 0 || len(truth.asked) != 1 {
		t.Fatalf("%d packets left, asked about %v", len(out), truth.asked)
	}
	r.setBackends(2, nil, nil)
	r.tell()
	w.Told([]Word{{Key: tupleOf(1), Backend: "b0", State: Alive}})
	if h := k.flows[tupleOf(1)]; h != placed {
		t.Errorf("the flow of a connection that lives went to %v, was at %v", h, placed)
	}
}

// A worker that hung may get SYNs of flows that the kernel has placed meanwhile.
func TestSYNsAfterAHang(t *testing.T) {
	r, k := kernelRig(t, 8)
	w := r.workers[0]
	w.Tick(time.Now())
	w.Flush()
	w.epoch = w.epoch.Add(-2 * time.Second) // so long ago was the last batch
	for n := range 32 {
		placed := r.snap.Pools.Of(0).Members[n%8]
		k.flows[tupleOf(n)] = placed.Handle
		if got := r.backend(syn(n)); got != placed.Addr {
			t.Errorf("a SYN went to %v, its flow is at %v", got, placed.Addr)
		}
	}
	for range 4 { // as time goes by
		w.epoch = w.epoch.Add(-idleTick)
		w.Tick(time.Now())
		w.Flush()
	}
	asked := k.asked
	r.backend(syn(99))
	if k.asked != asked {
		t.Error("the kernel is still asked about each SYN")
	}
}

// Those that wait are bounded.
func TestManyHeldSYNs(t *testing.T) {
	r, _ := truthRig(t, 2)
	for n := range 600 {
		r.backend(syn(n))
		r.backend(segment(n, packet.ACK))
	}
	r.setBackends(2, map[int]core.BackendState{0: core.Draining, 1: core.Draining}, nil)
	r.tell()
	for n := range 600 {
		r.give(0, syn(n))
	}
	if w := r.workers[0]; len(w.held) != maxHeld || r.count(HeldDrop) != 600-maxHeld {
		t.Errorf("%d held, %d dropped", len(w.held), r.count(HeldDrop))
	}
}

// The judge sees the established flows of those who tell, and ends them.
func TestSweepAsksTheJudge(t *testing.T) {
	r, truth := truthRig(t, 1)
	w := r.workers[0]
	r.backend(syn(1))
	r.backend(syn(2))
	r.backend(segment(2, packet.FIN|packet.ACK))
	w.epoch = w.epoch.Add(-2 * time.Minute)
	now := time.Now()
	w.Tick(now)
	w.Tick(now.Add(sweepTime))
	if r.entry(1) != nil {
		t.Error("a SYN alone stayed")
	}
	if len(truth.judged) == 0 || r.entry(2) == nil {
		t.Fatalf("judged %d times, entry %v", len(truth.judged), r.entry(2))
	}
	if s := truth.judged[0]; s.Key != tupleOf(2) || !s.Silent || !s.Closed || s.Ended || s.Idle < 2*time.Minute {
		t.Errorf("judged by %+v", s)
	}
	truth.over = true
	w.Tick(now.Add(2 * sweepTime))
	if r.entry(2) != nil {
		t.Error("the judge's word did not end the flow")
	}
}

// Without truth a closing flow counts for drains until it is forgotten, unless the
// client goes on.
func TestHalfClosedWithoutTruth(t *testing.T) {
	r := newRig(t, 1)
	r.setBackends(1, nil, nil)
	expect := func(what string, active, closing int64) {
		t.Helper()
		if got := r.counters.Total(r.entry(1).Backend); got.Active != active || got.Closing != closing {
			t.Errorf("%s: %d active, %d closing, want %d and %d", what, got.Active, got.Closing, active, closing)
		}
	}
	at := func(seq uint32, flags uint8, payload string) {
		r.backend(packettest.TCPAt(seq, client(1), vip4, flags, []byte(payload)))
	}
	at(1<<20, packet.SYN, "")
	at(1<<20+1, packet.ACK, "hello")
	expect("open", 1, 0)
	at(7, packet.RST, "")
	at(7, packet.FIN, "")
	expect("forged ends", 1, 0)
	at(1<<20+6, packet.FIN|packet.ACK, "")
	at(1<<20+7, packet.ACK, "")
	at(1<<20+1, packet.ACK, "hello")
	expect("FIN, and data once more", 0, 1)
	at(1<<20+7, packet.ACK, "more")
	expect("data after FIN", 1, 0)
	at(1<<20+11, packet.FIN, "")
	at(1<<20+12, packet.RST, "")
	expect("RST", 0, 0)
	e := r.entry(1)
	h := e.Backend
	r.workers[0].table.Remove(e)
	if got := r.counters.Total(h); got.Active != 0 || got.Closing != 0 {
		t.Errorf("removed: %+v", got)
	}
}

// While the table fills, flows of those who tell stay pending until they are
// proven, and are asked about at once.
func TestCrowdedTable(t *testing.T) {
	r, truth := truthRig(t, 1)
	w := r.workers[0]
	w.table.Strict = true
	for range 2 {
		r.backend(syn(1))
		r.backend(segment(1, packet.ACK))
	}
	if e := r.entry(1); e.State != flow.Pending || len(truth.asked) != 1 || truth.asked[0] != tupleOf(1) {
		t.Errorf("%v, asked about %v", e.State, truth.asked)
	}
	w.Told([]Word{{Key: tupleOf(1), Backend: "b0", State: Alive}})
	if e := r.entry(1); e.State != flow.Established {
		t.Errorf("proven, and %v", e.State)
	}
	r.backend(syn(2))
	r.backend(segment(2, packet.ACK))
	truth.over, truth.judged = true, nil
	w.epoch = w.epoch.Add(-time.Second)
	w.beginBatch()
	w.Told([]Word{{Key: tupleOf(2), Backend: "b0", State: Gone}})
	now := time.Now()
	w.Tick(now)
	w.Tick(now.Add(sweepTime))
	if r.entry(2) != nil {
		t.Error("a flow that nobody knows stayed until its SYN's timeout")
	}
	truth.over, w.table.Strict = false, true // the table is not full, and a tick has seen that
	r.backend(syn(1))
	r.backend(segment(1, packet.ACK))
	w.Told([]Word{{Key: tupleOf(1), Backend: "b0", State: Alive}})
	for n := 10; n < 5000; n++ {
		r.backend(syn(n))
		r.backend(segment(n, packet.ACK))
	}
	if r.entry(1) == nil || r.counters.Table().Refused+w.table.Refused != 0 {
		t.Errorf("the flow is gone, or %d were refused", r.counters.Table().Refused+w.table.Refused)
	}
}
