package ruleset

import (
	"net/netip"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/e2e/require"
	"github.com/google/nftables"
)

func capture(queues int) *Capture {
	all := []core.PortRange{core.AllPorts}
	return &Capture{
		Services: []*core.Service{
			{Name: "web", VIP: netip.MustParseAddr("192.0.2.1"), Protos: []uint8{core.ProtoTCP}, Ports: []core.PortRange{{First: 80, Last: 80}, {First: 8000, Last: 8080}}},
			{Name: "dns", VIP: netip.MustParseAddr("192.0.2.1"), Protos: []uint8{core.ProtoTCP, core.ProtoUDP}, Ports: []core.PortRange{{First: 53, Last: 53}}},
			{Name: "all6", VIP: netip.MustParseAddr("2001:db8::1"), Protos: []uint8{core.ProtoTCP}, Ports: all},
		},
		FirstQueue: 1337, Queues: queues, Seed: 7, TunnelPort: 1337,
	}
}

// tables counts our tables, chains and rules in the kernel.
func tables(t *testing.T) (tables, chains, rules int) {
	t.Helper()
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		all, err := conn.ListTablesOfFamily(f.table)
		if err != nil {
			t.Fatal(err)
		}
		tables += len(all)
		list, err := conn.ListChainsOfTableFamily(f.table)
		if err != nil {
			t.Fatal(err)
		}
		chains += len(list)
		for _, c := range list {
			r, err := conn.GetRules(c.Table, c)
			if err != nil {
				t.Fatal(err)
			}
			rules += len(r)
		}
	}
	return tables, chains, rules
}

func TestApplyIsIdempotentAndRemoveLeavesNothing(t *testing.T) {
	require.NetNS(t)
	for _, queues := range []int{1, 4} {
		c := capture(queues)
		m, err := c.Apply()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d queues by %s", queues, m)
		tab, ch, ru := tables(t)
		if tab != 2 || ch != 2*(queues+4)+2 {
			t.Errorf("%d tables, %d chains", tab, ch)
		}
		if _, err := c.Apply(); err != nil {
			t.Fatal(err)
		}
		if tab2, ch2, ru2 := tables(t); tab2 != tab || ch2 != ch || ru2 != ru {
			t.Errorf("applied twice: %d, %d, %d; once: %d, %d, %d", tab2, ch2, ru2, tab, ch, ru)
		}
	}
	for range 2 {
		if err := Remove(); err != nil {
			t.Fatal(err)
		}
	}
	if tab, _, _ := tables(t); tab != 0 {
		t.Errorf("%d tables left", tab)
	}
}

// The vectors of hashlittle in lookup3.c (Jenkins, 2006), whose function jhash is.
func TestJhash(t *testing.T) {
	for _, tt := range []struct {
		in   string
		seed uint32
		want uint32
	}{
		{"", 0, 0xdeadbeef},
		{"", 0xdeadbeef, 0xbd5b7dde},
		{"Four score and seven years ago", 0, 0x17770551},
		{"Four score and seven years ago", 1, 0xcd628161},
	} {
		if got := jhash([]byte(tt.in), tt.seed); got != tt.want {
			t.Errorf("jhash(%q, %#x) = %#x, want %#x", tt.in, tt.seed, got, tt.want)
		}
	}
}
