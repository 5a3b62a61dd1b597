package auth

import (
	"net/netip"
	"strings"
	"testing"
)

func TestPermits(t *testing.T) {
	one := Agent{Name: "web1", MaxWeight: 10, MaxNames: 1}
	many := Agent{
		Name: "node7", MaxWeight: 1, MaxNames: 2, Services: []string{"web", "dns"},
		Allow: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("2001:db8::/64")},
	}
	peer := netip.MustParseAddr("10.0.0.11")
	for _, tt := range []struct {
		agent    *Agent
		name     string
		data     string
		services string
		weight   uint32
		refused  string
	}{
		{&one, "web1", "10.0.0.11", "", 10, ""},
		{&one, "web1", "10.0.0.11", "anything", 0, ""},
		{&one, "web2", "10.0.0.11", "", 1, "it is agent web1, which may not register as web2"},
		{&one, "web1-a", "10.0.0.11", "", 1, "may not register as web1-a"},
		{&one, "web1", "10.0.0.12", "", 1, "data IP 10.0.0.12 is not the address that agent web1 comes from, 10.0.0.11"},
		{&one, "web1", "10.0.0.11", "", 11, "weight 11 is more than"},
		{&many, "node7", "10.1.2.3", "web", 1, ""},
		{&many, "node7-dns", "2001:db8::9", "dns,web", 1, ""},
		{&many, "node70", "10.1.2.3", "web", 1, "as node7 and as node7-…, not as node70"},
		{&many, "node7", "10.0.0.11", "web", 1, "in none of the networks"},
		{&many, "node7", "10.1.2.3", "", 1, "may not join every service (the balancer allows web, dns)"},
		{&many, "node7", "10.1.2.3", "web,mail", 1, "may not join service mail (the balancer allows web, dns)"},
	} {
		var services []string
		if tt.services != "" {
			services = strings.Split(tt.services, ",")
		}
		err := tt.agent.Permits(tt.name, netip.MustParseAddr(tt.data), peer, services, tt.weight)
		said(t, tt.name+" "+tt.data, err, tt.refused)
	}
	key := NewKeyPair().Public()
	agents := []Agent{one, {Name: "web2", Keys: []PublicKey{NewKeyPair().Public(), key}}}
	if a, err := Find(agents, key.Identity()); err != nil || a.Name != "web2" {
		t.Errorf("found %v, %v", a, err)
	}
	if a, err := Find(agents, PublicKey{}.Identity()); err == nil {
		t.Errorf("found %v for a key that nobody has", a)
	}
}
