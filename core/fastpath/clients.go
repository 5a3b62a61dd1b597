package fastpath

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/caplance/caplance/core"
	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Which clients a service takes is a trie of its own in the kernel, filled before it
// takes the place of the one before: at no time is half a list asked.

// setServices brings the services' lists of clients and configuration to the kernel: a
// list is there before it is to be asked, and goes when it is not asked any more.
func (b *Balancer) setServices(g *generation, want *core.Snapshot) error {
	if err := b.setClients(g, want); err != nil {
		return err
	}
	return errors.Join(b.setConfs(g, want), g.dropClients(want))
}

// setClients gives services the lists that changed. Services with one list share its
// trie, and a new generation takes over those of the one at work.
func (b *Balancer) setClients(g *generation, want *core.Snapshot) error {
	var ids, fds []uint32
	var errs []error
	for _, s := range want.Services.List {
		if s.Clients == nil || s.Clients == g.lists[s.ID] {
			continue
		}
		m, err := b.clientList(s.Clients)
		if err != nil {
			errs = append(errs, fmt.Errorf("fast path: clients of service %s: %w", s.Name, err))
			continue
		}
		ids, fds = append(ids, uint32(s.ID)), append(fds, uint32(m.FD()))
	}
	if err := linkAll(g.Clients, ids, fds); err != nil {
		errs = append(errs, fmt.Errorf("fast path: clients: %w", err))
	} else {
		for _, id := range ids {
			g.lists[core.ServiceID(id)] = want.Services.Get(core.ServiceID(id)).Clients
		}
	}
	return errors.Join(errs...)
}

// clientList returns the trie of a list, which stays open: to ask the kernel for it by
// its number takes CAP_SYS_ADMIN.
func (b *Balancer) clientList(c *core.Clients) (*ebpf.Map, error) {
	if m := b.tries[c]; m != nil {
		return m, nil
	}
	m, err := newClientList(c)
	if err == nil {
		b.tries[c] = m
	}
	return m, err
}

// closeTries closes those that no service has in a generation; nil has none.
func (b *Balancer) closeTries(used *generation) error {
	var errs []error
	for c, m := range b.tries {
		if used == nil || !slices.Contains(slices.Collect(maps.Values(used.lists)), c) {
			errs = append(errs, m.Close())
			delete(b.tries, c)
		}
	}
	return errors.Join(errs...)
}

// dropClients takes the lists away of services that take everybody, or are gone.
func (g *generation) dropClients(want *core.Snapshot) error {
	var errs []error
	for id := range g.lists {
		if s := want.Services.Get(id); s != nil && s.Clients != nil {
			continue
		}
		if err := g.Clients.Delete(uint32(id)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("fast path: clients: %w", err))
			continue
		}
		delete(g.lists, id)
	}
	return errors.Join(errs...)
}

// clientBatch is how many prefixes one system call puts.
const clientBatch = 4096

// newClientList returns a list as the programs read it.
func newClientList(c *core.Clients) (*ebpf.Map, error) {
	rules, others := c.Rules()
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "client_list", Type: ebpf.LPMTrie, Flags: unix.BPF_F_NO_PREALLOC, KeySize: 20, ValueSize: 4, MaxEntries: uint32(len(rules) + 2),
	})
	if err != nil {
		return nil, err
	}
	keys, values := make([]balanceClient, 0, clientBatch), make([]uint32, 0, clientBatch)
	put := func(p netip.Prefix, allow bool) error {
		keys, values = append(keys, clientKey(p)), append(values, uint32(flag(!allow)))
		if len(keys) < clientBatch {
			return nil
		}
		err := putBatch(m, keys, values)
		keys, values = keys[:0], values[:0]
		return err
	}
	errs := []error{put(netip.PrefixFrom(netip.IPv6Unspecified(), 0), others), put(netip.PrefixFrom(netip.IPv4Unspecified(), 0), others)}
	for _, r := range rules { // also those of no bits, which come later
		if err := put(r.Prefix, r.Allow); err != nil {
			errs = append(errs, err)
			break
		}
	}
	if err := errors.Join(append(errs, putBatch(m, keys, values))...); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// clientKey returns a prefix as the trie has it: IPv4 behind ::ffff:0:0/96.
func clientKey(p netip.Prefix) balanceClient {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return balanceClient{Bits: uint32(bits), Addr: address(p.Addr())}
}

// Refusals are the packets of a service's new flows that the programs dropped.
type Refusals struct{ Denied, Limited uint64 }

// Refusals returns those of a service since the fast path was opened.
func (b *Balancer) Refusals(id core.ServiceID) Refusals {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.refusals[id].plus(refused(b.refusing, id))
}

func (r Refusals) plus(o Refusals) Refusals {
	return Refusals{r.Denied + o.Denied, r.Limited + o.Limited}
}

// refused returns what is in a generation's map.
func refused(m *ebpf.Map, id core.ServiceID) (r Refusals) {
	var cpus []balanceRefusal
	if m == nil || uint32(id) >= m.MaxEntries() || m.Lookup(uint32(id), &cpus) != nil {
		return r
	}
	for _, n := range cpus {
		r = r.plus(Refusals{n.Denied, n.Limited})
	}
	return r
}

// keepRefusals has what a new generation counts come after what the one before has, and
// forgets services that are gone.
func (b *Balancer) keepRefusals(g *generation, want *core.Snapshot) {
	b.mu.Lock()
	defer b.mu.Unlock()
	kept := map[core.ServiceID]Refusals{}
	for _, s := range want.Services.List {
		if r := b.refusals[s.ID].plus(refused(b.refusing, s.ID)); r != (Refusals{}) {
			kept[s.ID] = r
		}
	}
	b.refusals, b.refusing = kept, g.Refusals
}
