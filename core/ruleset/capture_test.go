package ruleset

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/core/reconcile"
	"github.com/caplance/caplance/core/reconcile/contract"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func port(first, last uint16) core.PortRange { return core.PortRange{First: first, Last: last} }

// captures returns states that differ in all parts. The services overlap.
func captures() (one, two, three *Capture) {
	vip4, vip6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	web := Service{vip4, core.ProtoTCP, []core.PortRange{port(80, 80), port(8000, 8080)}}
	one = &Capture{
		Services:   []Service{web, {vip4, core.ProtoTCP, []core.PortRange{port(8050, 8100)}}, {vip4, core.ProtoUDP, []core.PortRange{port(53, 53)}}, {vip6, core.ProtoTCP, []core.PortRange{core.AllPorts}}},
		Echo:       []netip.Addr{vip4, vip6},
		Host:       []netip.Addr{vip6},
		FirstQueue: 1337, Queues: 4, Seed: 7, TunnelPort: 1337,
	}
	two = &Capture{
		Services:   []Service{{vip4, core.ProtoTCP, []core.PortRange{port(79, 81), port(443, 443)}}, {netip.MustParseAddr("192.0.2.2"), core.ProtoUDP, []core.PortRange{port(53, 53)}}},
		Echo:       []netip.Addr{netip.MustParseAddr("192.0.2.2")},
		Host:       []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		FirstQueue: 1338, Queues: 2, Seed: 8, TunnelPort: 1338,
	}
	three = &Capture{FirstQueue: 1337, Queues: 1, Seed: 7, TunnelPort: 1337}
	return one, two, three
}

// footprint lists all that is in nftables, without handles and generations.
func footprint(t *testing.T) string {
	t.Helper()
	var out []string
	list, err := Tables()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	for _, line := range list {
		var fam byte
		var name string
		if _, err := fmt.Sscan(line, &fam, &name); err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if byte(f.table) != fam {
				continue
			}
			img, err := readFamily(f, name)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, line)
			for _, c := range slices.Sorted(maps.Keys(img.hooks)) {
				out = append(out, fmt.Sprintf("  chain %s %s %q", c, img.hooks[c], img.rules[c]))
			}
			for _, s := range slices.Sorted(maps.Keys(img.sets)) {
				for _, k := range slices.Sorted(maps.Keys(img.sets[s])) {
					out = append(out, fmt.Sprintf("  set %s %x %v", s, k, img.sets[s][k]))
				}
			}
		}
	}
	return strings.Join(out, "\n")
}

// foreign puts somebody else's table beside ours.
func foreign(t *testing.T) {
	t.Helper()
	nettest.NetNS(t)
	commit(t, func(c *nftables.Conn) {
		table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "foreign"})
		ch := c.AddChain(&nftables.Chain{Table: table, Name: "prerouting", Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityFilter})
		c.AddRule(&nftables.Rule{Table: table, Chain: ch, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}})
		if err := c.AddSet(&nftables.Set{Table: table, Name: vipSet, KeyType: nftables.TypeIPAddr}, []nftables.SetElement{{Key: []byte{1, 2, 3, 4}}}); err != nil {
			t.Fatal(err)
		}
	})
}

func commit(t *testing.T, f func(*nftables.Conn)) {
	t.Helper()
	c, err := connect()
	if err != nil {
		t.Fatal(err)
	}
	f(c)
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
}

// breaks returns what others do to a table of IPv4.
func breaks(table, chain string) []contract.Drift {
	tab := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: table}
	ch := &nftables.Chain{Table: tab, Name: chain}
	do := func(name string, f func(*nftables.Conn)) contract.Drift {
		return contract.Drift{Name: name, Break: func(t *testing.T) { commit(t, f) }}
	}
	return []contract.Drift{
		do("table deleted", func(c *nftables.Conn) { c.DelTable(tab) }),
		do("chain deleted", func(c *nftables.Conn) { c.FlushChain(ch); c.DelChain(ch) }),
		do("rules deleted", func(c *nftables.Conn) { c.FlushChain(ch) }),
		do("rule added", func(c *nftables.Conn) {
			c.InsertRule(&nftables.Rule{Table: tab, Chain: ch, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}})
		}),
		do("hook chain made anew elsewhere", func(c *nftables.Conn) {
			c.FlushChain(ch)
			c.DelChain(ch)
			c.AddChain(&nftables.Chain{Table: tab, Name: chain, Type: nftables.ChainTypeFilter,
				Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
		}),
		do("set emptied", func(c *nftables.Conn) { c.FlushSet(&nftables.Set{Table: tab, Name: vipSet}) }),
		{Name: "one rule deleted", Break: func(t *testing.T) {
			commit(t, func(c *nftables.Conn) {
				rules, err := c.GetRules(tab, ch)
				if err != nil || len(rules) == 0 {
					t.Fatalf("%d rules, %v", len(rules), err)
				}
				if err := c.DelRule(rules[0]); err != nil {
					t.Fatal(err)
				}
			})
		}},
	}
}

func TestCaptureContract(t *testing.T) {
	one, two, three := captures()
	tab := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: Table}
	services := &nftables.Set{Table: tab, Name: serviceSet}
	drifts := append(breaks(Table, "output"),
		contract.Drift{Name: "ruleset flushed but for the others'", Break: func(t *testing.T) {
			if err := Remove(); err != nil {
				t.Fatal(err)
			}
		}},
		contract.Drift{Name: "answers to pings removed", Break: func(t *testing.T) {
			commit(t, func(c *nftables.Conn) { c.FlushSet(&nftables.Set{Table: tab, Name: echoSet}) })
		}},
		contract.Drift{Name: "one element removed", Break: func(t *testing.T) {
			commit(t, func(c *nftables.Conn) {
				key := serviceKey(one.Services[0].VIP, core.ProtoTCP)
				if err := c.SetDeleteElements(services, []nftables.SetElement{{Key: withPort(key, 80), KeyEnd: withPort(key, 80)}}); err != nil {
					t.Fatal(err)
				}
			})
		}},
	)
	contract.Test(t, contract.Case[Capture]{
		Setup:     foreign,
		New:       func(*testing.T) reconcile.Target[Capture] { return NewCapture().Share() },
		Empty:     &Capture{},
		States:    []*Capture{one, two, three},
		Footprint: footprint,
		Drifts:    drifts,
	})
}

// A VIP answers to pings as its services say, and as their pools are.
func TestEchoOfSnapshot(t *testing.T) {
	a, b, c := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::1")
	both := []uint8{core.ProtoTCP, core.ProtoUDP}
	pools, list := map[core.ServiceID]*core.Pool{}, []*core.Service{}
	add := func(vip netip.Addr, echo core.Echo, eligible int) {
		s := &core.Service{ID: core.ServiceID(len(list)), Name: fmt.Sprint(len(list)), VIP: vip, Echo: echo, Protos: both}
		list, pools[s.ID] = append(list, s), &core.Pool{Service: s, Eligible: eligible}
	}
	for _, tt := range []struct {
		name string
		echo core.Echo
		with [2]int // eligible backends of two services of a
		want []netip.Addr
	}{
		{"always", core.EchoAlways, [2]int{0, 0}, []netip.Addr{a, b}},
		{"never", core.EchoNever, [2]int{1, 1}, []netip.Addr{b}},
		{"backends, none", core.EchoBackends, [2]int{0, 0}, []netip.Addr{b}},
		{"backends of the first service", core.EchoBackends, [2]int{2, 0}, []netip.Addr{a, b}},
		{"backends of the second service", core.EchoBackends, [2]int{0, 1}, []netip.Addr{a, b}},
	} {
		list = nil
		add(a, tt.echo, tt.with[0])
		add(b, core.EchoAlways, 0)
		add(a, tt.echo, tt.with[1])
		add(c, core.EchoNever, 5)
		got := CaptureOf(&core.Snapshot{Settings: &core.Settings{}, Services: core.NewServiceSet(list), Pools: core.NewPoolSet().With(pools)}).Echo
		slices.SortFunc(got, netip.Addr.Compare)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v answer, want %v", tt.name, got, tt.want)
		}
	}
}

func TestVerifyIsCheap(t *testing.T) {
	nettest.NetNS(t)
	one, _, _ := captures()
	target := NewCapture().Share()
	if err := target.Add(t.Context(), nil, one); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := target.Verify(t.Context(), one); err != nil {
			t.Fatal(err)
		}
	}
	if target.tables.verified == 0 {
		t.Error("Verify reads the whole ruleset each time")
	}
}

// A thousand VIPs with four ranges of ports each, in both families.
func TestManyServices(t *testing.T) {
	nettest.NetNS(t)
	c := &Capture{Queues: 2, Seed: 1, TunnelPort: 1337}
	for i := range 1000 {
		vip := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		if i%2 == 1 {
			vip = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 14: byte(i >> 8), 15: byte(i)})
		}
		c.Services = append(c.Services, Service{vip, core.ProtoTCP, []core.PortRange{port(80, 80), port(443, 443), port(1000, 2000), port(8080, 8090)}})
	}
	target := NewCapture().Share()
	start := time.Now()
	if err := target.Add(t.Context(), nil, c); err != nil {
		t.Fatal(err)
	}
	added := time.Since(start)
	if err := target.Verify(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	more := *c
	more.Services = append(slices.Clone(c.Services), Service{netip.MustParseAddr("192.0.2.1"), core.ProtoUDP, []core.PortRange{port(53, 53)}})
	start = time.Now()
	if err := target.Add(t.Context(), c, &more); err != nil {
		t.Fatal(err)
	}
	t.Logf("4000 elements in %v, one more in %v", added, time.Since(start))
	start = time.Now()
	if added > slow.Time(3*time.Second) {
		t.Errorf("4000 elements took %v, want less than 3 s", added)
	}
	if err := target.Prune(t.Context(), &more, &Capture{Queues: 2, Seed: 1, TunnelPort: 1337}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > slow.Time(3*time.Second) {
		t.Errorf("removing 4000 elements took %v, want less than 3 s", took)
	}
}

func TestManyQueues(t *testing.T) {
	nettest.NetNS(t)
	one, _, _ := captures()
	target := NewCapture().Share()
	var was *Capture
	for _, n := range []int{48, 256, 3, 1} {
		c := *one
		c.Queues = n
		start := time.Now()
		if err := target.Add(t.Context(), was, &c); err != nil {
			t.Fatalf("%d queues: %v", n, err)
		}
		if err := target.Prune(t.Context(), was, &c); err != nil {
			t.Fatalf("%d queues: %v", n, err)
		}
		if err := target.Verify(t.Context(), &c); err != nil {
			t.Fatalf("%d queues: %v", n, err)
		}
		t.Logf("%d queues in %v", n, time.Since(start))
		if got, want := len(target.tables.have[0].hooks), n+6; got != want {
			t.Errorf("%d queues: %d chains, want %d", n, got, want)
		}
		was = &c
	}
}

// A table as the first edition made it is brought in line, not made anew.
func TestFirstEditionsTable(t *testing.T) {
	foreign(t)
	one, _, _ := captures()
	target := NewCapture().Share()
	if err := errors.Join(target.Add(t.Context(), nil, one), target.Prune(t.Context(), nil, one)); err != nil {
		t.Fatal(err)
	}
	want := footprint(t)
	if err := Remove(); err != nil {
		t.Fatal(err)
	}
	commit(t, func(c *nftables.Conn) {
		table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: Table})
		chain := func(name string) *nftables.Chain { return c.AddChain(&nftables.Chain{Table: table, Name: name}) }
		flow, vip := chain("by_flow"), chain("vip_0")
		hook := c.AddChain(&nftables.Chain{Table: table, Name: "prerouting", Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw})
		to := func(from, to *nftables.Chain) {
			c.AddRule(&nftables.Rule{Table: table, Chain: from, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: to.Name}}})
		}
		to(vip, flow)
		to(hook, vip)
	})
	target = NewCapture().Share()
	if err := errors.Join(target.Add(t.Context(), nil, one), target.Prune(t.Context(), nil, one)); err != nil {
		t.Fatal(err)
	}
	if got := footprint(t); got != want {
		t.Errorf("ruleset\n%s\nwant\n%s", got, want)
	}
}

// A set with elements that only somebody else can have made is made anew.
func TestBrokenSetIsRefilled(t *testing.T) {
	nettest.NetNS(t)
	one, _, _ := captures()
	target := NewCapture().Share()
	if err := target.Add(t.Context(), nil, one); err != nil {
		t.Fatal(err)
	}
	want := footprint(t)
	set := &nftables.Set{Table: &nftables.Table{Family: nftables.TableFamilyIPv4, Name: Table}, Name: serviceSet}
	commit(t, func(c *nftables.Conn) { // an interval of addresses
		from := withPort(serviceKey(netip.MustParseAddr("10.0.0.0"), unix.IPPROTO_TCP), 1)
		to := withPort(serviceKey(netip.MustParseAddr("10.0.0.9"), unix.IPPROTO_TCP), 2)
		if err := c.SetAddElements(set, []nftables.SetElement{{Key: from, KeyEnd: to}}); err != nil {
			t.Fatal(err)
		}
	})
	if err := target.Add(t.Context(), nil, one); err != nil {
		t.Fatal(err)
	}
	if got := footprint(t); got != want {
		t.Errorf("ruleset\n%s\nwant\n%s", got, want)
	}
}
