package flow

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/packet"
)

var timeouts = &core.IdleTimeouts{All: core.Timeouts{TCP: time.Minute, TCPSyn: 10 * time.Second, TCPFin: 5 * time.Second, TCPHalfClosed: 15 * time.Second, UDP: 20 * time.Second}}

func tcpKey(n uint32) core.FlowKey {
	k := core.FlowKey{SrcPort: 1, DstPort: 80, Proto: core.ProtoTCP}
	binary.BigEndian.PutUint32(k.Src[12:], n)
	return k
}

func udpKey(n uint32) core.FlowKey {
	k := tcpKey(n)
	k.Proto = core.ProtoUDP
	return k
}

// model is the table as one would write it without care for speed.
type model map[core.FlowKey]uint32 // key → expiry of its idle time

// The table agrees with a map through random inserts, packets, removals and
// sweeps; hashes are squeezed so that probe runs are long and deletions have
// to shift entries.
func TestAgainstModel(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		want := model{}
		ended := 0
		tab := New(300, timeouts, func(*Entry) { ended++ })
		hash := func(k *core.FlowKey) uint64 { return k.Hash(seed) & 0xff0000000000003f }
		now, inserted := uint32(0), 0
		for range 20000 {
			k := tcpKey(rng.Uint32N(400))
			if rng.IntN(2) == 0 {
				k = udpKey(rng.Uint32N(400))
			}
			h := hash(&k)
			e := tab.Find(&k, h)
			if _, ok := want[k]; ok != (e != nil) {
				t.Fatalf("seed %d: found %v, model %v", seed, e != nil, ok)
			}
			switch r := rng.IntN(10); {
			case r < 6:
				if e == nil {
					if len(want) == tab.Cap() {
						continue // eviction has its own test
					}
					e = tab.Insert(&k, h, now)
					inserted++
				}
				tab.Touch(e, Segment{Flags: []uint8{packet.SYN, packet.ACK, packet.FIN}[rng.IntN(3)], Size: 100}, now)
				want[k] = now + tab.idle(e)
			case r < 8 && e != nil:
				tab.Remove(e)
				delete(want, k)
			case r == 9:
				now += rng.Uint32N(200)
				tab.Sweep(1000, now, nil)
				for k, expiry := range want {
					if now > expiry {
						delete(want, k)
					}
				}
			}
			if tab.Len() != len(want) || inserted-ended != len(want) {
				t.Fatalf("seed %d: %d flows, %d inserted, %d ended, model %d", seed, tab.Len(), inserted, ended, len(want))
			}
		}
	}
}

func TestStates(t *testing.T) {
	const s, a, f, r = packet.SYN, packet.ACK, packet.FIN, packet.RST
	tests := []struct {
		name  string
		key   core.FlowKey
		flags []uint8
		want  State
	}{
		{"syn", tcpKey(1), []uint8{s}, Pending},
		{"syn again", tcpKey(1), []uint8{s, s}, Pending},
		{"handshake", tcpKey(1), []uint8{s, a}, Established},
		{"fin", tcpKey(1), []uint8{s, a, f | a}, Closing},
		{"data after fin", tcpKey(1), []uint8{s, a, f | a, a}, Closing},
		{"rst at once", tcpKey(1), []uint8{s, r}, Closing},
		{"mid-flow", tcpKey(1), []uint8{a}, Established},
		{"datagram", udpKey(1), []uint8{0}, Pending},
		{"second datagram", udpKey(1), []uint8{0, 0}, Established},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tab := New(4, timeouts, nil)
			e := tab.Insert(&tt.key, tt.key.Hash(0), 0)
			for _, fl := range tt.flags {
				tab.Touch(e, Segment{Flags: fl, Size: 60}, 0)
			}
			if e.State != tt.want {
				t.Errorf("state %v, want %v", e.State, tt.want)
			}
		})
	}
}

// A flood of SYNs fills the table without touching what is established, and
// among the rest the oldest goes first.
func TestEviction(t *testing.T) {
	tab := New(100, timeouts, nil)
	insert := func(n uint32, flags ...uint8) *Entry {
		k := tcpKey(n)
		e := tab.Insert(&k, k.Hash(0), 0)
		for _, f := range flags {
			tab.Touch(e, Segment{Flags: f, Size: 60}, 0)
		}
		return e
	}
	alive := func(n uint32) bool { k := tcpKey(n); return tab.Find(&k, k.Hash(0)) != nil }
	for n := range uint32(60) {
		insert(n, packet.SYN, packet.ACK)
	}
	insert(60, packet.SYN, packet.ACK, packet.FIN)
	for n := uint32(100); n < 100_000; n++ {
		insert(n, packet.SYN)
	}
	for n := range uint32(61) {
		if !alive(n) {
			t.Fatalf("flow %d was evicted by a flood of SYNs", n)
		}
	}
	if alive(99_960) || !alive(99_961) || !alive(99_999) {
		t.Error("not the oldest pending flow went first")
	}
	for n := uint32(200_000); n < 200_039; n++ {
		insert(n, packet.SYN, packet.ACK)
	}
	if !alive(60) {
		t.Error("a closing flow went before a pending one")
	}
	insert(300_000, packet.SYN, packet.ACK)
	if alive(60) {
		t.Error("the closing flow stayed though no pending one was left")
	}
	k := tcpKey(400_000)
	if tab.Insert(&k, k.Hash(0), 0) != nil || tab.Refused != 1 || tab.Len() != tab.Cap() {
		t.Error("an established flow gave way")
	}
}

func TestSweepEnded(t *testing.T) {
	tab := New(10, timeouts, nil)
	for n := range uint32(10) {
		k := tcpKey(n)
		tab.Insert(&k, k.Hash(0), 0).Backend = core.Handle(n % 2)
	}
	tab.Sweep(100, 0, func(e *Entry, _ bool) bool { return e.Backend == 1 })
	left := 0
	for at := 0; at >= 0; {
		at = tab.Walk(at, 3, func(e *Entry) {
			if left++; e.Backend == 1 {
				t.Error("a flow of an ended backend stayed")
			}
		})
	}
	if left != 5 {
		t.Errorf("%d flows left, want 5", left)
	}
}

// Flows are as patient as their service says, also after a change.
func TestTimeoutsOfServices(t *testing.T) {
	own := *timeouts
	own.By = []core.Timeouts{{TCP: time.Hour, UDP: time.Second}, own.All}
	tab := New(10, &own, nil)
	insert := func(k core.FlowKey, of core.ServiceID) {
		e := tab.Insert(&k, k.Hash(0), 0)
		e.Service = of
		tab.Touch(e, Segment{Flags: packet.ACK, Size: 60}, 0)
	}
	insert(tcpKey(1), 0)
	insert(tcpKey(2), 1)
	insert(tcpKey(3), 5)
	insert(udpKey(4), 0)
	left := func(now uint32) (list []uint32) {
		tab.Sweep(100, now, nil)
		for n, k := range []core.FlowKey{tcpKey(1), tcpKey(2), tcpKey(3), udpKey(4)} {
			if tab.Find(&k, k.Hash(0)) != nil {
				list = append(list, uint32(n+1))
			}
		}
		return list
	}
	if got := left(1001); !slices.Equal(got, []uint32{1, 2, 3}) {
		t.Errorf("after a second there are %v", got)
	}
	if got := left(60_001); !slices.Equal(got, []uint32{1}) {
		t.Errorf("after a minute there are %v", got)
	}
	tab.SetTimeouts(timeouts)
	if got := left(60_001); len(got) != 0 {
		t.Errorf("after the change there are %v", got)
	}
}

// The clock wraps after 49 days.
func TestClockWraps(t *testing.T) {
	tab := New(10, timeouts, nil)
	k := tcpKey(1)
	before := ^uint32(0) - 1000
	tab.Touch(tab.Insert(&k, k.Hash(0), before), Segment{Flags: packet.ACK, Size: 60}, before)
	if tab.Sweep(10, before+30_000, nil); tab.Len() != 1 {
		t.Error("ended before its time")
	}
	if tab.Sweep(10, before+60_001, nil); tab.Len() != 0 {
		t.Error("outlived its time")
	}
}

func TestSize(t *testing.T) {
	if s := unsafe.Sizeof(Entry{}); s != 96 {
		t.Errorf("an entry is %d bytes; the documentation says 96", s)
	}
}

func TestDoesNotAllocate(t *testing.T) {
	tab := New(1000, timeouts, nil)
	n := uint32(0)
	if got := testing.AllocsPerRun(5000, func() {
		n++
		k := tcpKey(n)
		h := k.Hash(1)
		if e := tab.Insert(&k, h, n); e != nil {
			tab.Touch(e, Segment{Flags: packet.SYN, Size: 60}, n)
		}
		tab.Find(&k, h)
		tab.Sweep(4, n, nil)
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
}

// BenchmarkFind is a lookup among a million flows, each time another one, and
// states the memory of a flow with its share of the index.
func BenchmarkFind(b *testing.B) {
	const flows = 1 << 20
	tab := New(flows, timeouts, nil)
	for n := range uint32(flows) {
		k := tcpKey(n)
		tab.Insert(&k, k.Hash(1), 0)
	}
	b.ReportMetric(float64(len(tab.entries)*int(unsafe.Sizeof(Entry{}))+len(tab.index)*4)/flows, "B/flow")
	n := uint32(0)
	for b.Loop() {
		n = n*1664525 + 1013904223
		k := tcpKey(n % flows)
		if tab.Find(&k, k.Hash(1)) == nil {
			b.Fatal("lost")
		}
	}
}

func BenchmarkInsertRemove(b *testing.B) {
	tab := New(1<<16, timeouts, nil)
	n := uint32(0)
	for b.Loop() {
		n++
		k := tcpKey(n)
		h := k.Hash(1)
		tab.Remove(tab.Insert(&k, h, 0))
	}
}
