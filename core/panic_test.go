package core

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// Below the threshold those whose checks fail take new flows, too; nobody else does.
func TestPanicThreshold(t *testing.T) {
	vip := netip.MustParseAddr("192.0.2.1")
	states := map[byte]BackendState{'a': Active, 'u': Unhealthy, 'v': Unhealthy, 'x': Unreachable, 'l': Lost, 'p': Paused, 'd': Draining}
	for _, tt := range []struct {
		members   string // v: its VIP is not set up
		threshold int
		eligible  string
	}{
		{"aauu", 0, "0 1"},
		{"uuuu", 0, ""},
		{"aauu", 50, "0 1"},
		{"auuu", 50, "0 1 2 3"},
		{"auvu", 50, "0 1 3"},
		{"axlu", 50, "0 3"},
		{"apdu", 50, "0"},
		{"aupd", 51, "0 1"},
		{"uuu", 1, "0 1 2"},
		{"aaau", 100, "0 1 2 3"},
		{"aaaa", 100, "0 1 2 3"},
		{"", 50, ""},
	} {
		svc := &Service{Name: "web", VIP: vip, Panic: tt.threshold}
		var members []Member
		for i := range len(tt.members) {
			b := &Backend{Name: fmt.Sprint(i), Weight: 1, State: states[tt.members[i]], VIPs: []netip.Addr{vip}}
			if tt.members[i] == 'v' {
				b.VIPs = []netip.Addr{}
			}
			members = append(members, NewMember(svc, b, Handle(i), time.Now()))
		}
		p := NewPool(svc, 1, members)
		var got []string
		for _, m := range p.Members[:p.Eligible] {
			got = append(got, m.Name)
		}
		if s := strings.Join(got, " "); s != tt.eligible || p.Panic != (strings.Contains(tt.members, "u") && len(got) > strings.Count(tt.members, "a")) {
			t.Errorf("%s at %d %%: %q take new flows, panic %v, want %q", tt.members, tt.threshold, s, p.Panic, tt.eligible)
		}
	}
}
