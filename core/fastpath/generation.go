package fastpath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/cilium/ebpf"
)

// generation is the programs as loaded for one set of VIPs and services. They
// never change: another one is loaded beside it and takes its place at once.
type generation struct {
	generationMaps
	tc    *ebpf.Program
	bare  *ebpf.Program // tc for links without Ethernet
	xdp   *ebpf.Program // nil where it is not wanted
	shape shape
	vips  *vipNumbers
	lists map[core.ServiceID]*core.Clients // that are in Clients
}

// maxSources is how many sources' token buckets are remembered, of all services together:
// some 6 MB of the kernel's memory.
const maxSources = 1 << 16

// generationMaps are those that each generation has of its own.
type generationMaps struct {
	Vips, Services, ServiceConf, Lookup, Macs, Overdrafts, Clients, Refusals, Sources *ebpf.Map
}

// shape is what takes another generation when it changes.
type shape struct {
	vips     map[[16]byte]uint16
	services []serviceShape // by ServiceID
	xdp      bool
	limits   bool // of a source's new flows
}

type serviceShape struct {
	vip    [16]byte
	protos []uint8
	ports  []core.PortRange
}

func shapeOf(s *core.Snapshot) shape {
	out := shape{vips: numberVIPs(s.VIPs).byAddr, xdp: s.Settings.Type == core.XDP, services: make([]serviceShape, s.Services.Len())}
	for _, svc := range s.Services.List {
		if svc.Leaving {
			continue // its flows are known; its ports may be another's
		}
		out.limits = out.limits || svc.NewFlows > 0
		out.services[svc.ID] = serviceShape{svc.VIP.As16(), svc.Protos, svc.Ports}
	}
	return out
}

// sameShape reports whether two snapshots obviously have the same shape.
func sameShape(was, want *core.Snapshot) bool {
	return was != nil && was.VIPs == want.VIPs && was.Services == want.Services && was.Settings.Type == want.Settings.Type
}

func (a shape) equal(b shape) bool {
	return a.xdp == b.xdp && a.limits == b.limits && maps.Equal(a.vips, b.vips) && slices.EqualFunc(a.services, b.services, func(x, y serviceShape) bool {
		return x.vip == y.vip && slices.Equal(x.protos, y.protos) && slices.Equal(x.ports, y.ports)
	})
}

const xdpProgram = "balance_xdp"

// powerOfTwo returns the least one that is not below n.
func powerOfTwo(n int) uint32 {
	p := uint32(1)
	for int(p) < n {
		p *= 2
	}
	return p
}

// loadGeneration loads the programs over the shared maps and fills them with
// VIPs, ports and service configuration.
func (b *Balancer) loadGeneration(shared *sharedMaps, s *core.Snapshot) (*generation, error) {
	g := &generation{shape: shapeOf(s), vips: numberVIPs(s.VIPs), lists: map[core.ServiceID]*core.Clients{}}
	table, seed, err := vipTable(g.vips.byAddr)
	if err != nil {
		return nil, err
	}
	spec, err := b.generationSpec(shared, s, seed)
	if err != nil {
		return nil, err
	}
	replace := map[string]*ebpf.Map{}
	for name, m := range shared.byName() {
		replace[name] = *m
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replace})
	if err != nil {
		return nil, fmt.Errorf("fast path: load: %w", err)
	}
	defer coll.Close() // of what is not taken out
	g.tc, g.bare, g.xdp = coll.DetachProgram("balance"), coll.DetachProgram("balance_bare"), coll.DetachProgram(xdpProgram)
	g.generationMaps = generationMaps{coll.DetachMap("vips"), coll.DetachMap("services"), coll.DetachMap("service_conf"), coll.DetachMap("lookup"), coll.DetachMap("macs"),
		coll.DetachMap("overdrafts"), coll.DetachMap("clients"), coll.DetachMap("refusals"), coll.DetachMap("sources")}
	if err := g.fill(table, s); err != nil {
		return nil, errors.Join(err, g.close())
	}
	return g, nil
}

func (b *Balancer) generationSpec(shared *sharedMaps, s *core.Snapshot, vipSeed uint32) (*ebpf.CollectionSpec, error) {
	spec, err := loadBalance()
	if err != nil {
		return nil, err
	}
	for name, m := range shared.byName() {
		spec.Maps[name].MaxEntries = (*m).MaxEntries()
	}
	services := powerOfTwo(s.Services.Len())
	for _, name := range []string{"service_conf", "lookup", "clients", "refusals"} {
		spec.Maps[name].MaxEntries = services
	}
	spec.Maps["overdrafts"].MaxEntries = shared.Pending.MaxEntries() / 2
	if shapeOf(s).limits { // else there is nothing to be remembered
		spec.Maps["sources"].MaxEntries = maxSources
	}
	if s.Settings.Type != core.XDP {
		delete(spec.Programs, xdpProgram)
	}
	return spec, errors.Join(
		spec.Variables["vip_seed"].Set(vipSeed),
		spec.Variables["overdraft_timeout"].Set(b.clock.jiffies(overdraftTimeout)),
		spec.Variables["heartbeat_timeout"].Set(b.clock.jiffies(HeartbeatTimeout)),
		spec.Variables["burst"].Set(b.clock.jiffies(time.Second)),
		spec.Variables["window"].Set(b.windowBits()))
}

// fill puts VIPs and services into the maps.
func (g *generation) fill(vips map[uint32]balanceVip, s *core.Snapshot) error {
	for at, v := range vips {
		if err := g.Vips.Put(at, &v); err != nil {
			return fmt.Errorf("fast path: vips: %w", err)
		}
	}
	for _, svc := range s.Services.List {
		if svc.Leaving {
			continue
		}
		if err := g.putPorts(svc); err != nil {
			return fmt.Errorf("fast path: service %s: %w", svc.Name, err)
		}
	}
	return nil
}

// setMACs tells XDP which frames are for the links that it is at.
func (g *generation) setMACs(links []core.Link) error {
	if g.xdp == nil {
		return nil
	}
	var gone []uint32
	var key uint32
	var value balanceMac
	for it := g.Macs.Iterate(); it.Next(&key, &value); {
		if !slices.ContainsFunc(links, func(l core.Link) bool { return l.Index == int(key) }) {
			gone = append(gone, key)
		}
	}
	for _, key := range gone {
		_ = g.Macs.Delete(key)
	}
	for _, l := range links {
		if l.Index == 0 {
			continue
		}
		m := balanceMac{High: binary.NativeEndian.Uint32(l.MAC[:4]), Low: binary.NativeEndian.Uint16(l.MAC[4:])}
		if err := g.Macs.Put(uint32(l.Index), &m); err != nil {
			return fmt.Errorf("fast path: MAC of %s: %w", l.Name, err)
		}
	}
	return nil
}

// portBatch is how many ports one system call puts.
const portBatch = 4096

// putPorts adds a service's ports. A range is an entry for each port, all ports
// are one.
func (g *generation) putPorts(s *core.Service) error {
	var keys []balanceServiceKey
	var values []uint32
	flush := func() error {
		err := putBatch(g.Services, keys, values)
		keys, values = keys[:0], values[:0]
		return err
	}
	for _, proto := range s.Protos {
		for _, r := range s.Ports {
			if r == core.AllPorts {
				r = core.PortRange{}
			}
			for port := int(r.First); port <= int(r.Last); port++ {
				keys = append(keys, balanceServiceKey{Vip: g.vips.byAddr[s.VIP.As16()], Port: network(uint16(port)), Proto: proto})
				values = append(values, uint32(s.ID))
				if len(keys) == portBatch {
					if err := flush(); err != nil {
						return err
					}
				}
			}
		}
	}
	return flush()
}

// putBatch puts entries into a map with as few system calls as this kernel
// allows.
func putBatch[K, V any](m *ebpf.Map, keys []K, values []V) error {
	if len(keys) == 0 {
		return nil
	}
	_, err := m.BatchUpdate(keys, values, nil)
	if !errors.Is(err, ebpf.ErrNotSupported) {
		return err
	}
	for i := range keys {
		if err := m.Put(&keys[i], &values[i]); err != nil {
			return err
		}
	}
	return nil
}

func (g *generation) close() error {
	if g == nil {
		return nil
	}
	return errors.Join(g.tc.Close(), g.bare.Close(), g.xdp.Close(), g.Vips.Close(), g.Services.Close(), g.ServiceConf.Close(), g.Lookup.Close(), g.Macs.Close(),
		g.Overdrafts.Close(), g.Clients.Close(), g.Refusals.Close(), g.Sources.Close())
}
