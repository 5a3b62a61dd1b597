package core

import (
	"net/netip"
	"testing"
)

// A VIP is withdrawn while one of its services is short of backends: not before they
// had the time to come, and not one that a router sends here.
func TestWithdrawn(t *testing.T) {
	on, routed := netip.MustParseAddr("10.0.0.100"), netip.MustParseAddr("192.0.2.1")
	tests := []struct {
		name     string
		vip      netip.Addr
		eligible int
		change   func(*Snapshot)
		want     bool
	}{
		{"enough", on, 2, func(*Snapshot) {}, false},
		{"too few", on, 1, func(*Snapshot) {}, true},
		{"just started", on, 0, func(s *Snapshot) { s.Settled = false }, false},
		{"leaving", on, 0, func(s *Snapshot) { s.Services.List[0].Leaving = true }, false},
		{"routed", routed, 0, func(*Snapshot) {}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			short := &Service{ID: 1, Name: "short", VIP: tt.vip, MinBackends: 2}
			other := &Service{ID: 2, Name: "other", VIP: tt.vip}
			s := &Snapshot{
				Settled:  true,
				Services: NewServiceSet([]*Service{short, other}),
				Pools:    NewPoolSet().With(map[ServiceID]*Pool{1: {Service: short, Eligible: tt.eligible}, 2: {Service: other}}),
				VIPs:     &VIPSet{List: []VIP{{Addr: on, Link: Link{Name: "eth0"}}, {Addr: routed, Link: Link{Name: "lo"}}}},
			}
			tt.change(s)
			if got := s.Withdrawn()[tt.vip]; got != nil != tt.want || got != nil && got != short {
				t.Errorf("withdrawn for %v, want %v", got, tt.want)
			}
		})
	}
}
