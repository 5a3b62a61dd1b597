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

// scene is a balancer with backends of every kind.
type scene struct {
	*Balancer
	link int
	dead bool // the daemon is
	set  lookups
}

// lookups say where the lookup tables send flows, and whether they are the
// policy's.
type lookups struct {
	to    backend
	table bool
}

func newScene(t *testing.T) *scene {
	t.Helper()
	name, index := testLink(t)
	cfg := testConfig(t, name)
	cfg.XDP = true
	s := &scene{Balancer: open(t, cfg), link: index, set: lookups{to: backends}}
	for _, service := range cfg.Services {
		for b := range backends {
			target := b.target(index)
			target.Service = service.Index
			if b == gone {
				continue
			}
			if err := s.SetTarget(target); err != nil {
				t.Fatal(err)
			}
		}
	}
	return s
}

// reset makes the scene what it was.
func (s *scene) reset() error {
	s.dead = false
	errs := []error{s.Beat(), clearFlows(s.objs.Flows), clearFlows(s.objs.Pending)}
	return errors.Join(append(errs, s.setLookups(tunnel4, false))...)
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

func (s *scene) serviceOf(k *core.FlowKey) uint16 {
	for _, service := range s.cfg.Services {
		if service.VIP.As16() == k.Dst && service.Matches(k.Proto, k.DstPort) {
			return service.Index
		}
	}
	return 1
}

// state is what the programs know when a packet comes.
type state func(*scene) error

func all(states ...state) state {
	return func(s *scene) error {
		var errs []error
		for _, given := range states {
			errs = append(errs, given(s))
		}
		return errors.Join(errs...)
	}
}

// established, pending and closed are what testFlows are, all to one backend.
func established(b backend) state {
	return func(s *scene) error { return s.putFlows(s.objs.Flows, balanceFlow{}, b) }
}

func pending(b backend) state {
	return func(s *scene) error { return s.putFlows(s.objs.Pending, balanceFlow{}, b) }
}

func closed(b backend) state {
	return func(s *scene) error { return s.putFlows(s.objs.Flows, balanceFlow{State: 1}, b) }
}

func (s *scene) putFlows(m *ebpf.Map, v balanceFlow, b backend) error {
	v.Gen, v.Packets, v.Bytes = generation(b.handle()), 1, 40
	v.Created, v.Seen = s.tick(), s.tick()
	var errs []error
	for _, k := range testFlows() {
		v.Target = targetKey(s.serviceOf(k), b.handle())
		key := flowKey(k, s.vips[k.Dst])
		errs = append(errs, m.Put(&key, &v))
	}
	return errors.Join(errs...)
}

// tick is the time as the flows hold it.
func (s *scene) tick() uint32 { return uint32(s.clock.now()) }

// dead silences the daemon.
func dead(s *scene) error {
	s.dead = true
	return s.Retire()
}

// silentFor has the daemon give its last sign of life some time ago.
func silentFor(d time.Duration) state {
	return func(s *scene) error {
		s.dead = d > Silence
		return s.objs.Heartbeat.Put(uint32(0), uint64(int64(s.clock.now())-int64(d)*int64(s.clock.hz)/int64(time.Second)))
	}
}

// table has the policy's table send all new flows to a backend.
func table(b backend) state {
	return func(s *scene) error { return s.setLookups(b, true) }
}

// lookup has the lookup table do that, for when it is asked.
func lookup(b backend) state {
	return func(s *scene) error { return s.setLookups(b, false) }
}

func (s *scene) setLookups(b backend, table bool) error {
	if s.set == (lookups{b, table}) {
		return nil
	}
	var errs []error
	for _, service := range s.cfg.Services {
		errs = append(errs, s.SetLookup(lookupTo(service, b, table)))
	}
	s.set = lookups{b, table}
	return errors.Join(errs...)
}

// nobody is where a lookup table of no candidates leads.
const nobody = backend(core.NoBackend)

// lookupTo is a pool whose lookup table, and that of its policy, send the tests'
// flows to a backend, and others nowhere.
func lookupTo(s *core.Service, b backend, table bool) *core.Pool {
	p := &core.Pool{Service: s}
	for b := range backends {
		p.Members = append(p.Members, core.Member{Handle: b.handle()})
	}
	slots := slices.Repeat([]uint16{core.NoBackend}, core.LookupSize)
	for _, k := range testFlows() {
		slots[k.Hash(s.Seed)%core.LookupSize] = uint16(b)
	}
	p.Lookup = core.LookupOf(slots)
	if table {
		p = p.WithTable(p.Lookup)
	}
	return p
}

// testFlows are those that fixtures are about.
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
func spent(s *scene) error   { return s.spend(1) }
func unspent(s *scene) error { return s.spend(0) }

// spend does so well inside a window of the program's clock, which may be some
// ms late.
func (s *scene) spend(used uint32) error {
	window := uint64(1) << s.windowBits()
	for at := s.clock.now() % window; at < window/8 || at > window/2; at = s.clock.now() % window {
		runtime.Gosched()
	}
	r := s.rule(s.cfg.Services[3], false)
	r.Window, r.Used = uint32(s.clock.now()/window), used
	s.set.to = backends // the rules are to be written again
	return s.objs.Rules.Put(uint32(3), r)
}
