package core

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func candidates(n int) []Candidate {
	out := make([]Candidate, n)
	for i := range out {
		out[i] = Candidate{ID: BackendID("svc", fmt.Sprint("b", i)), Weight: 1, Index: uint16(i)}
	}
	return out
}

// share counts the slots of each index.
func share(l *Lookup) map[uint16]int {
	m := map[uint16]int{}
	for _, s := range l.Slots() {
		m[s]++
	}
	return m
}

func TestLookupIsEven(t *testing.T) {
	for _, n := range []int{1, 2, 3, 10, 100, 1000} {
		mean := float64(LookupSize) / float64(n)
		for i, got := range share(NewLookup(candidates(n))) {
			if d := float64(got) / mean; d < 0.98 || d > 1.02 {
				t.Errorf("%d backends: b%d has %.3f of its share", n, i, d)
			}
		}
	}
}

func TestLookupWeights(t *testing.T) {
	c := candidates(4)
	c[1].Weight, c[2].Weight, c[3].Weight = 3, 0, 2
	got := share(NewLookup(c))
	for i, want := range []float64{1. / 6, 3. / 6, 0, 2. / 6} {
		if d := float64(got[uint16(i)])/LookupSize - want; d < -0.01 || d > 0.01 {
			t.Errorf("b%d has %.3f, want %.3f", i, float64(got[uint16(i)])/LookupSize, want)
		}
	}
}

func TestLookupOfNobody(t *testing.T) {
	for _, c := range [][]Candidate{nil, {{ID: 1}}} {
		if NewLookup(c).At(12345) != NoBackend {
			t.Error("a flow was placed")
		}
	}
}

// The table does not depend on the order of candidates, and one that leaves
// moves few of the others' flows.
func TestLookupIsConsistent(t *testing.T) {
	c := candidates(10)
	all := NewLookup(c)
	shuffled := append([]Candidate{}, c...)
	rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	if !slices.Equal(NewLookup(shuffled).Slots(), all.Slots()) {
		t.Error("the order of candidates matters")
	}
	without := NewLookup(append(append([]Candidate{}, c[:4]...), c[5:]...))
	moved, stayed := 0, 0
	for i, s := range all.Slots() {
		if s == 4 {
			continue
		}
		if without.Slots()[i] == s {
			stayed++
		} else {
			moved++
		}
	}
	disruption := float64(moved) / float64(moved+stayed)
	t.Logf("disruption %.2f %%", 100*disruption)
	if disruption > 0.02 {
		t.Errorf("%.2f %% of the others' flows moved", 100*disruption)
	}
}

func TestHashSpreads(t *testing.T) {
	k := FlowKey{DstPort: 80, Proto: ProtoTCP}
	buckets := make([]int, 64)
	const n = 64000
	for i := range n {
		k.SrcPort, k.Src[15] = uint16(i), byte(i>>16)
		buckets[k.Hash(1)%64]++
	}
	chi := 0.0
	for _, b := range buckets {
		d := float64(b) - n/64
		chi += d * d / (n / 64)
	}
	if chi > 120 { // 63 degrees of freedom: p < 10⁻⁵
		t.Errorf("χ² = %.0f over 64 buckets", chi)
	}
	other := k
	other.SrcPort++
	if k.Hash(1) == k.Hash(2) || k.Hash(1) == other.Hash(1) {
		t.Error("seed or port does not matter")
	}
}

func backend(name string, state BackendState, since int64) Backend {
	return Backend{Name: name, Addr: netip.MustParseAddr("10.0.0.1"), Weight: 1, State: state, Since: time.Unix(since, 0)}
}

func TestPool(t *testing.T) {
	b := NewPoolBuilder(&Service{Name: "web"})
	other := backend("other", Active, 1)
	other.Services = []string{"dns"}
	none := backend("weightless", Active, 1)
	none.Weight = 0
	p := b.Build([]Backend{backend("c", Active, 1), backend("b", Draining, 1), backend("a", Active, 1), none, other})
	var names []string
	for _, m := range p.Members {
		names = append(names, m.Name)
	}
	if fmt.Sprint(names) != "[a c b weightless]" || p.Eligible != 2 {
		t.Errorf("members %v, %d eligible", names, p.Eligible)
	}
	a := p.Members[0].Handle
	if i, ok := p.Find(a); !ok || i != 0 {
		t.Error("handle not found")
	}
	if _, ok := p.Find(0); ok {
		t.Error("the zero handle names somebody")
	}
	// a leaves and comes back: another membership, other members untouched.
	c := p.Members[1].Handle
	p = b.Build([]Backend{backend("c", Active, 1)})
	if _, ok := p.Find(a); ok {
		t.Error("a handle outlived its membership")
	}
	p = b.Build([]Backend{backend("a", Active, 2), backend("c", Active, 1)})
	if _, ok := p.Find(a); ok {
		t.Error("an old handle names the new membership")
	}
	if i, ok := p.Find(c); !ok || p.Members[i].Name != "c" {
		t.Error("a bystander's handle changed")
	}
	// Registered again without having been seen to leave.
	back := p.Members[0].Handle
	p = b.Build([]Backend{backend("a", Active, 3), backend("c", Active, 1)})
	if _, ok := p.Find(back); ok {
		t.Error("a re-registration kept the handle")
	}
}

func BenchmarkHash(b *testing.B) {
	k := FlowKey{DstPort: 80, Proto: ProtoTCP}
	for b.Loop() {
		k.SrcPort++
		_ = k.Hash(7)
	}
}

func BenchmarkNewLookup(b *testing.B) {
	for _, n := range []int{3, 64, 1000} {
		c := candidates(n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				NewLookup(c)
			}
		})
	}
}

// Handles that a predecessor gave away are not given to others, and slots are
// reused in the order in which they became free.
func TestSlots(t *testing.T) {
	was := NewSlots()
	a, b, c := was.Take(), was.Take(), was.Take()
	next := NewSlots()
	if !next.Reserve(c) || !next.Reserve(a) || next.Reserve(a) {
		t.Error("handles of a predecessor are not reserved once each")
	}
	if got := next.Take(); got.Slot() != b.Slot() {
		t.Errorf("slot %d was taken, want the free one", got.Slot())
	}
	if got := next.Take(); got.Slot() != 3 || next.Len() != 4 {
		t.Errorf("slot %d of %d, want a new one", got.Slot(), next.Len())
	}
	next.Release(c)
	next.Release(a)
	next.Release(a)
	if got := next.Take(); got.Slot() != c.Slot() || got == c {
		t.Errorf("%x after %x was released", got, c)
	}
	if got := next.Take(); got.Slot() != a.Slot() || got == a {
		t.Errorf("%x after %x was released", got, a)
	}
}

// Generations come round without naming nobody.
func TestSlotsWrap(t *testing.T) {
	s := NewSlots()
	seen := map[Handle]bool{}
	for range maxGeneration {
		h := s.Take()
		if h.Slot() != 0 || h.Generation() == 0 || seen[h] {
			t.Fatalf("handle %x", h)
		}
		seen[h] = true
		s.Release(h)
	}
	if h := s.Take(); !seen[h] {
		t.Errorf("handle %x after all generations", h)
	}
}

// A pool goes on with an earlier lookup table: flows of backends that stayed
// stay, the others go to somebody eligible.
func TestPoolWithOldLookup(t *testing.T) {
	b := NewPoolBuilder(&Service{Name: "web"})
	was := b.Build([]Backend{backend("a", Active, 1), backend("b", Active, 1), backend("c", Active, 1)})
	now := b.Build([]Backend{backend("a", Draining, 1), backend("b", Active, 1), backend("d", Active, 1)}).WithLookup(was.Lookup)
	for hash := range uint64(1000) {
		from, to := was.Members[was.Fallback(hash)].Name, now.Members[now.Fallback(hash)]
		if !to.eligible() || from == "b" && to.Name != "b" {
			t.Fatalf("hash %d went from %s to %s", hash, from, to.Name)
		}
	}
	if none := b.Build(nil).WithLookup(was.Lookup); none.Fallback(7) != -1 {
		t.Error("a flow was placed in an empty pool")
	}
}

// Where a predecessor's table sent a flow it goes, and nowhere while that
// backend is not back.
func TestPoolRepeats(t *testing.T) {
	b := NewPoolBuilder(&Service{Name: "web"})
	was := b.Build([]Backend{backend("a", Active, 1), backend("b", Active, 1)})
	now := b.Build([]Backend{backend("a", Draining, 1)})
	now.MidFlow = NewLateLookup(was.Candidates())
	for hash := range uint64(100) {
		want := -1
		if was.Members[was.Fallback(hash)].Name == "a" {
			want = 0
		}
		if got := now.Repeat(hash); got != want {
			t.Fatalf("hash %d: %d, want %d", hash, got, want)
		}
	}
}
