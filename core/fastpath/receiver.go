package fastpath

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
)

// Receiver is the program at the ingress of a backend's link. Its methods must
// not be called concurrently.
type Receiver struct {
	objs receiveObjects
	hook hook
}

// OpenReceiver loads the program for a tunnel's port and attaches it to the
// link. It takes nothing yet.
func OpenReceiver(link string, port uint16) (*Receiver, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("fast path: memory lock limit: %w", err)
	}
	spec, err := loadReceive()
	if err != nil {
		return nil, fmt.Errorf("fast path: %w", err)
	}
	if err := spec.Variables["port"].Set(network(port)); err != nil {
		return nil, fmt.Errorf("fast path: %w", err)
	}
	r := &Receiver{}
	if err := spec.LoadAndAssign(&r.objs, nil); err != nil {
		return nil, fmt.Errorf("fast path: load: %w", err)
	}
	if r.hook, err = attach(link, r.objs.Receive, ""); err != nil {
		return nil, errors.Join(err, r.objs.Close())
	}
	return r, nil
}

// Accept makes the program take packets for these VIPs from these balancers,
// and no others.
func (r *Receiver) Accept(vips, balancers []netip.Addr) error {
	if err := setTo(r.objs.Vips, vips); err != nil {
		return fmt.Errorf("fast path: vips: %w", err)
	}
	if err := setTo(r.objs.Balancers, balancers); err != nil {
		return fmt.Errorf("fast path: balancers: %w", err)
	}
	return nil
}

// setTo makes a map hold exactly these addresses: first adds, then removes.
func setTo(m *ebpf.Map, addrs []netip.Addr) error {
	want := map[[4]uint32]bool{}
	for _, a := range addrs {
		want[address(a)] = true
		if err := m.Put(address(a), uint8(1)); err != nil {
			return err
		}
	}
	var key [4]uint32
	var value uint8
	var gone [][4]uint32
	for it := m.Iterate(); it.Next(&key, &value); {
		if !want[key] {
			gone = append(gone, key)
		}
	}
	for _, key := range gone {
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
	return nil
}

// Total is what the program took out of the tunnel.
func (r *Receiver) Total() (packets, bytes uint64) {
	sum := func(i uint32) (n uint64) {
		var cpus []uint64
		if r.objs.Received.Lookup(i, &cpus) != nil {
			return 0
		}
		for _, c := range cpus {
			n += c
		}
		return n
	}
	return sum(0), sum(1)
}

// Close detaches the program; the agent's socket takes the packets again.
func (r *Receiver) Close() error { return errors.Join(r.hook.Close(), r.objs.Close()) }
