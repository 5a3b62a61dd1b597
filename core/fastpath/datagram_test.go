package fastpath

import (
	"testing"

	"github.com/caplance/caplance/core"
)

// alone has each datagram to the service web scheduled by itself, and its lookup
// table, the policy's or not, lead to two backends.
func (s *testbed) alone(t *testing.T, table bool, budget int) {
	t.Helper()
	svc := *s.snapshot.Services.Get(1)
	svc.UDP, svc.Upcalls = core.UDPDatagram, budget
	p := &core.Pool{Service: &svc}
	var to []core.Candidate
	for i, b := range []backend{tunnel4, direct4} {
		p.Members = append(p.Members, core.Member{Handle: b.handle()})
		to = append(to, core.Candidate{ID: uint64(i + 1), Weight: 1, Index: uint16(i), Handle: b.handle()})
	}
	p.Lookup = core.NewLookup(to)
	if table {
		p = p.WithTable(p.Lookup)
	}
	s.set.to = backends // it is to be written again
	for _, err := range []error{s.setLookup(p), s.linkNew(), s.setConf(s.gen, &svc, table)} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// What places each datagram of one socket by itself spreads them, and leaves
// nothing; TCP to the same service has flows as ever.
func TestDatagrams(t *testing.T) {
	const n = 100
	for _, tt := range []struct {
		name   string
		table  bool
		budget int
		given  state
		up     bool // all but those beyond a budget
	}{
		{"policy", false, 0, nil, true},
		{"policy's table", true, 0, nil, false},
		{"daemon dead", false, 0, dead, false},
		{"budget spent", false, 1, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newTestbed(t)
			if err := s.reset(); err != nil {
				t.Fatal(err)
			}
			s.alone(t, tt.table, tt.budget)
			if tt.given != nil {
				if err := tt.given(s); err != nil {
					t.Fatal(err)
				}
			}
			got := map[bool]map[string]int{false: {}, true: {}}
			for i := range n {
				_, verdict, out := s.show(t, udp4(9), false, super{})
				where := "up"
				if verdict == redirect {
					where = keyOf(out).DstAddr().Addr().String()
				}
				got[i%2 == 0][where]++
			}
			ups := got[true]["up"] + got[false]["up"]
			if tt.up != (ups == n) || !tt.up && ups > n/4 {
				t.Errorf("%d of %d came up", ups, n)
			}
			for half, to := range got {
				if !tt.up && len(to)-min(1, to["up"]) != 2 {
					t.Errorf("half %v went to %v", half, to)
				}
			}
			if _, ok := s.Find(keyOf(udp4(9))); ok {
				t.Error("there is a flow")
			}
			var o balanceOverdraft
			var k balanceFlowKey
			if s.gen.Overdrafts.Iterate().Next(&k, &o) {
				t.Error("there is an entry of what was beyond the budget")
			}
		})
	}
	s := newTestbed(t)
	s.alone(t, true, 0)
	s.show(t, tcp4(syn, 0), false, super{})
	if _, ok := s.Find(keyOf(tcp4(syn, 0))); !ok {
		t.Error("TCP has no flow")
	}
}
