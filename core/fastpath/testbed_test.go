package fastpath

import (
	"errors"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/cilium/ebpf"
)

// testbed is a balancer with backends of every kind.
type testbed struct {
	*Balancer
	snapshot *core.Snapshot
	timeouts core.Timeouts
	link     int
	dead     bool // the daemon is
	set      lookups
}

// lookups say where the lookup tables send flows, and whether they are the
// policy's.
type lookups struct {
	to    backend
	table bool
}

func newTestbed(t testing.TB) *testbed {
	t.Helper()
	_, index := testLink(t)
	snapshot := testSnapshot()
	snapshot.Settings.Type = core.XDP
	b, err := Open(Config{StateDir: t.TempDir(), Settings: snapshot.Settings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	b.windows = 1 // a spent budget is to stay so until the packet is there, also on a busy machine
	if err := b.Add(t.Context(), nil, snapshot); err != nil {
		t.Fatal(err)
	}
	if err := b.gen.setMACs(append(slices.Clone(snapshot.Links.List), core.Link{Name: "lo", Index: inLink})); err != nil {
		t.Fatal(err)
	}
	s := &testbed{Balancer: b, snapshot: snapshot, link: index, set: lookups{to: backends}}
	for b := range backends {
		if b == gone {
			continue
		}
		if err := s.SetTarget(b.target(index)); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// reset makes the testbed what it was.
func (s *testbed) reset() error {
	s.dead = false
	errs := []error{s.Heartbeat(), clearFlows(s.maps().Flows), clearFlows(s.maps().Pending)}
	return errors.Join(append(errs, s.clearOverdrafts(), s.setLookups(tunnel4, false))...)
}

func clearFlows(m *ebpf.Map) error {
	var k balanceFlowKey
	var v balanceFlow
	var keys []balanceFlowKey
	for it := m.Iterate(); it.Next(&k, &v); {
		keys = append(keys, k)
	}
	for _, k := range keys {
		if err := m.Delete(&k); err != nil {
			return err
		}
	}
	return nil
}

func (s *testbed) clearOverdrafts() error {
	var k balanceFlowKey
	var o balanceOverdraft
	for it := s.gen.Overdrafts.Iterate(); it.Next(&k, &o); it = s.gen.Overdrafts.Iterate() {
		if err := s.gen.Overdrafts.Delete(&k); err != nil {
			return err
		}
	}
	return nil
}

func (s *testbed) serviceOf(k *core.FlowKey) core.ServiceID {
	if svc := s.snapshot.Services.Of(k.DstAddr().Addr(), k.Proto, k.DstPort); svc != nil {
		return svc.ID
	}
	return 1
}

// state is what the programs know when a packet comes.
type state func(*testbed) error

func all(states ...state) state {
	return func(s *testbed) error {
		var errs []error
		for _, given := range states {
			errs = append(errs, given(s))
		}
		return errors.Join(errs...)
	}
}

// established, pending and closed are what testFlows are, all to one backend.
func established(b backend) state {
	return func(s *testbed) error { return s.putFlows(s.maps().Flows, balanceFlow{}, b) }
}

func pending(b backend) state {
	return func(s *testbed) error { return s.putFlows(s.maps().Pending, balanceFlow{}, b) }
}

func closed(b backend) state {
	return func(s *testbed) error { return s.putFlows(s.maps().Flows, balanceFlow{State: 1}, b) }
}

// overdrawn says that testFlows were placed at a backend beyond the budget, some
// time ago.
func overdrawn(b backend, ago time.Duration) state {
	return func(s *testbed) error {
		var errs []error
		for _, k := range testFlows() {
			key := flowKey(k, s.gen.vips.byAddr[k.Dst])
			o := balanceOverdraft{Handle: uint32(b.handle()), Seen: s.tick() - s.clock.jiffies(ago), Service: uint16(s.serviceOf(k))}
			errs = append(errs, s.gen.Overdrafts.Put(&key, &o))
		}
		return errors.Join(errs...)
	}
}

func (s *testbed) putFlows(m *ebpf.Map, v balanceFlow, b backend) error {
	v.Handle, v.Packets, v.Bytes = uint32(b.handle()), 1, 40
	v.Created, v.Seen = s.tick(), s.tick()
	var errs []error
	for _, k := range testFlows() {
		v.Service = uint16(s.serviceOf(k))
		key := flowKey(k, s.gen.vips.byAddr[k.Dst])
		errs = append(errs, m.Put(&key, &v))
	}
	return errors.Join(errs...)
}

// tick returns the time as the flows hold it.
func (s *testbed) tick() uint32 { return uint32(s.clock.now()) }

// dead silences the daemon.
func dead(s *testbed) error {
	s.dead = true
	return s.StopUpcalls()
}

// silentFor has the daemon give its last sign of life some time ago.
func silentFor(d time.Duration) state {
	return func(s *testbed) error {
		s.dead = d > HeartbeatTimeout
		return s.maps().Heartbeat.Put(uint32(0), uint64(int64(s.clock.now())-int64(d)*int64(s.clock.hz)/int64(time.Second)))
	}
}

// table has the policy's table send all new flows to a backend.
func table(b backend) state {
	return func(s *testbed) error { return s.setLookups(b, true) }
}

// lookup has the lookup table do that, for when it is asked.
func lookup(b backend) state {
	return func(s *testbed) error { return s.setLookups(b, false) }
}

func (s *testbed) setLookups(b backend, table bool) error {
	if s.set == (lookups{b, table}) {
		return nil
	}
	var errs []error
	for _, service := range s.snapshot.Services.List {
		p := lookupTo(service, b, table)
		errs = append(errs, s.setLookup(p), s.linkNew(), s.setConf(s.gen, service, table))
	}
	s.set = lookups{b, table}
	return errors.Join(errs...)
}

// nobody is where a lookup table of no candidates leads.
const nobody = backend(core.NoBackend)

// lookupTo returns a pool whose lookup table, and that of its policy, send the tests'
// flows to a backend, and others nowhere.
func lookupTo(s *core.Service, b backend, table bool) *core.Pool {
	p := &core.Pool{Service: s}
	for b := range backends {
		p.Members = append(p.Members, core.Member{Handle: b.handle()})
	}
	var handles []core.Handle
	for b := range backends {
		handles = append(handles, b.handle())
	}
	slots := slices.Repeat([]uint16{core.NoBackend}, core.LookupSize)
	for _, k := range testFlows() {
		slots[k.Hash(s.Seed)%core.LookupSize] = uint16(b)
	}
	p.Lookup = core.LookupOf(slots, handles)
	if table {
		p = p.WithTable(p.Lookup)
	}
	return p
}

// testFlows returns those that fixtures are about.
func testFlows() (keys []*core.FlowKey) {
	for _, proto := range both {
		for _, dst := range []netip.AddrPort{vip4, web444, web8001, web8002, metered, other} {
			keys = append(keys, key(client4, dst, proto))
		}
		for _, dst := range []netip.AddrPort{vip6, web6Zero, web6First, web6Last} {
			keys = append(keys, key(client6, dst, proto))
		}
	}
	return keys
}

// spent says that no upcall, and unspent that one is left of the budget of the
// service metered.
func spent(s *testbed) error   { return s.spend(1) }
func unspent(s *testbed) error { return s.spend(0) }

// spend does so well inside a window of the program's clock, which may be some
// ms late.
func (s *testbed) spend(used uint32) error {
	window := uint64(1) << s.windowBits()
	for at := s.clock.now() % window; at < window/8 || at > window/2; at = s.clock.now() % window {
		runtime.Gosched()
	}
	c := s.conf(s.snapshot.Services.Get(3), false)
	c.Window, c.Used = uint32(s.clock.now()/window), used
	s.set.to = backends // it is to be written again
	delete(s.confs, 3)
	return s.gen.ServiceConf.Put(uint32(3), &c)
}
