// Package fastpath forwards the packets of placed flows in the kernel: on the
// balancer a program puts them into the tunnel or sends them to the backend's
// MAC, on a backend another takes them out of the tunnel. Userspace places
// each flow once; from then on the flow lives in the kernel's maps alone, until
// a census finds it closed or silent. It is the only importer of cilium/ebpf.
//
//	b, err := fastpath.OpenBalancer(fastpath.Config{Links: []string{"eth0"}, …})
//	err = b.SetTarget(fastpath.Target{…})
//	err = b.Attach()
//	p := b.Placer()                             // one for each worker
//	ok := p.Add(&key, service, handle, 1, size) // from the next Flush on its packets stay in the kernel
package fastpath

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/flow"
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
)

// Balancer is the programs at the ingress of the balancer's links. Its methods
// may be called concurrently, except Attach and Close.
type Balancer struct {
	cfg   Config
	pins  string
	objs  objects
	xdp   *ebpf.Program // nil where it is not wanted
	clock clock
	vips  map[[16]byte]uint16 // their numbers in the flow keys
	hooks []hook

	mu      sync.Mutex
	written map[uint16][]uint32 // the lookup tables as the program has them, by service
	gens    []uint16            // of the targets, by targetKey

	// Inherited says that a predecessor's flows were found, and that its
	// program goes on until Attach.
	Inherited bool
	// Replaced says that Attach took a predecessor's programs away whose maps
	// had another layout: its flows are lost.
	Replaced bool
}

// Config is what a balancer's fast path is made with.
type Config struct {
	Links    []string // to attach to
	XDP      bool     // also by native XDP
	Flows    int      // room for that many established ones
	Timeouts flow.Timeouts
	Services []*core.Service
	StateDir string // below it all is kept that outlives the process
}

// objects are the maps and the TC program of balance.c.
type objects struct {
	balanceMaps
	TC *ebpf.Program `ebpf:"balance"`
}

const xdpProgram = "balance_xdp"

// OpenBalancer loads the programs and the maps, a predecessor's where there are
// some with the same layout. Attach puts them to work.
func OpenBalancer(cfg Config) (*Balancer, error) {
	if len(cfg.Links) == 0 {
		return nil, errors.New("fast path: no Ethernet link has an address")
	}
	if err := rlimit.RemoveMemlock(); err != nil { // kernels before 5.11 account maps there
		return nil, fmt.Errorf("fast path: memory lock limit: %w", err)
	}
	pins, err := mountPins(cfg.StateDir)
	if err != nil {
		return nil, err
	}
	b := &Balancer{cfg: cfg, pins: pins, vips: numberVIPs(cfg.Services), written: map[uint16][]uint32{}}
	b.gens = make([]uint16, MaxBackends*max(len(cfg.Services), 1))
	if b.clock, err = newClock(); err != nil {
		return nil, err
	}
	_, err = os.Stat(filepath.Join(pins, "flows"))
	b.Inherited = err == nil
	err = b.load()
	if errors.Is(err, ebpf.ErrMapIncompatible) { // another size: the old flows are lost
		if err = Unload(cfg.StateDir); err == nil {
			_, err = mountPins(cfg.StateDir)
		}
		if err == nil {
			b.Inherited = false
			err = b.load()
		}
	}
	if err == nil {
		err = b.setServices()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fast path: load: %w", err), b.release(), b.unloadOwn())
	}
	return b, nil
}

func (b *Balancer) load() error {
	spec, err := loadBalance()
	if err != nil {
		return err
	}
	services := uint32(max(len(b.cfg.Services), 1))
	for name, entries := range map[string]uint32{
		"flows": uint32(b.cfg.Flows), "pending": uint32(max(b.cfg.Flows/8, 1<<10)),
		"targets": MaxBackends * services, "sums": MaxBackends * services,
		"rules": services, "lookup": core.LookupSize * services,
	} {
		spec.Maps[name].MaxEntries = entries
	}
	for _, name := range pinned {
		spec.Maps[name].Pinning = ebpf.PinByName
	}
	if err := b.setConstants(spec); err != nil {
		return err
	}
	if !b.cfg.XDP {
		delete(spec.Programs, xdpProgram)
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: b.pins}})
	if err != nil {
		return err
	}
	defer coll.Close() // of what is not taken out
	b.xdp = coll.DetachProgram(xdpProgram)
	return coll.Assign(&b.objs)
}

// release closes programs and maps; what is pinned stays.
func (b *Balancer) release() error {
	return errors.Join(b.objs.TC.Close(), b.xdp.Close(), b.objs.balanceMaps.Close())
}

// unloadOwn removes the pins that this process made, not a predecessor's.
func (b *Balancer) unloadOwn() error {
	if b.Inherited {
		return nil
	}
	return Unload(b.cfg.StateDir)
}

// Attach puts the programs at the links' ingress; a predecessor's go.
func (b *Balancer) Attach() error {
	for _, name := range b.cfg.Links {
		h, err := attach(name, b.objs.TC, b.pins)
		if err != nil {
			return err
		}
		b.hooks = append(b.hooks, h)
		if b.xdp == nil {
			continue
		}
		if h, err = attachXDP(name, b.xdp, b.pins); err != nil {
			return err
		}
		b.hooks = append(b.hooks, h)
	}
	return errors.Join(b.dropOldLinks(), b.dropOldLayouts())
}

// How says by what the programs are attached: tcx or clsact, and xdp.
func (b *Balancer) How() string {
	var how []string
	for _, h := range b.hooks {
		if !slices.Contains(how, h.how) {
			how = append(how, h.how)
		}
	}
	return cmp.Or(strings.Join(how, " and "), "not attached")
}

// Retire has the programs place new flows themselves from now on.
func (b *Balancer) Retire() error {
	if err := b.objs.Heartbeat.Put(uint32(0), uint64(0)); err != nil {
		return fmt.Errorf("fast path: heartbeat: %w", err)
	}
	return nil
}

// Leave closes everything and leaves the programs at work for a successor.
func (b *Balancer) Leave() error {
	err := b.Retire()
	for _, h := range b.hooks {
		if c, ok := h.Closer.(*filter); ok {
			c.stay = true
		}
		err = errors.Join(err, h.Close())
	}
	return errors.Join(err, b.release())
}

// Close detaches the programs and forgets the flows: packets go by userspace
// again.
func (b *Balancer) Close() error {
	errs := []error{Unload(b.cfg.StateDir)}
	for _, h := range b.hooks {
		errs = append(errs, h.Close())
	}
	return errors.Join(append(errs, b.release())...)
}

func linkIndex(name string) (int, error) {
	l, err := net.InterfaceByName(name)
	if err != nil {
		return 0, fmt.Errorf("link %s: %w", name, err)
	}
	return l.Index, nil
}
