package fastpath

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/caplance/caplance/core"
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
)

// Receiver is the program at the ingress of a backend's link. Its methods must
// not be called concurrently.
type Receiver struct {
	objs receiveObjects
	link string
	pins *pins // nil: where there is no tcx, or no BPF file system to be had
	hook hook  // nil: not attached
}

// OpenReceiver loads the program for a tunnel's port and attaches it to the
// link, in the place of the one that a predecessor with the same state directory
// left. It takes what that one took, until AcceptOnly, else nothing yet.
func OpenReceiver(link string, port uint16, stateDir string) (*Receiver, error) {
	var at *pins
	if featureTCX.Have() == nil {
		at, _ = openPins(agentPins, stateDir) // without, it ends with the process
	}
	return openReceiver(link, port, featureDecap.Have() != nil, at)
}

// openReceiver does so, taking headers of the other family off as old kernels must
// or as new ones can.
func openReceiver(link string, port uint16, translate bool, at *pins) (*Receiver, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("fast path: memory lock limit: %w", err)
	}
	spec, err := loadReceive()
	if err != nil {
		return nil, fmt.Errorf("fast path: %w", err)
	}
	if err := errors.Join(spec.Variables["port"].Set(network(port)), spec.Variables["translate"].Set(flag(translate))); err != nil {
		return nil, fmt.Errorf("fast path: %w", err)
	}
	r := &Receiver{link: link, pins: at}
	if err := spec.LoadAndAssign(&r.objs, nil); err != nil {
		return nil, fmt.Errorf("fast path: load: %w", err)
	}
	r.inherit()
	if err := r.Attach(); err != nil {
		return nil, errors.Join(err, r.objs.Close())
	}
	_ = r.dropOthers() // one that stays takes nothing that this one would not
	return r, nil
}

// Attach puts the program at the link's ingress, if it is not there.
func (r *Receiver) Attach() error {
	if r.Attached() || r.repin() {
		return nil
	}
	l, err := netlink.LinkByName(r.link)
	if err != nil {
		return fmt.Errorf("fast path: link %s: %w", r.link, err)
	}
	at := core.Link{Name: r.link, Index: l.Attrs().Index, Type: l.Type()}
	if err := Attachable(at); err != nil {
		return fmt.Errorf("fast path: link %s: %w", r.link, err)
	}
	if r.hook != nil {
		_ = r.hook.detach() // its link is gone
	}
	prog := r.objs.Receive
	if len(l.Attrs().HardwareAddr) != 6 && l.Attrs().Flags&net.FlagLoopback == 0 { // a tunnel's is its outer address
		prog = r.objs.ReceiveBare
	}
	r.hook, err = attachTC(at, prog, receiveHandle, r.pin(at.Index))
	return err
}

// Attached reports whether the program is at the ingress of the link that has
// the name now.
func (r *Receiver) Attached() bool {
	l, err := net.InterfaceByName(r.link)
	return err == nil && r.hook != nil && r.hook.at() == l.Index && r.hook.intact()
}

// Accept makes the program take packets for these VIPs from these balancers,
// too.
func (r *Receiver) Accept(vips, balancers []netip.Addr) error {
	if err := addTo(r.objs.Vips, vips); err != nil {
		return fmt.Errorf("fast path: vips: %w", err)
	}
	if err := addTo(r.objs.Balancers, balancers); err != nil {
		return fmt.Errorf("fast path: balancers: %w", err)
	}
	return nil
}

// AcceptOnly makes the program take packets for these VIPs from these balancers,
// and no others.
func (r *Receiver) AcceptOnly(vips, balancers []netip.Addr) error {
	if err := r.Accept(vips, balancers); err != nil {
		return err
	}
	if err := keepIn(r.objs.Vips, vips); err != nil {
		return fmt.Errorf("fast path: vips: %w", err)
	}
	if err := keepIn(r.objs.Balancers, balancers); err != nil {
		return fmt.Errorf("fast path: balancers: %w", err)
	}
	return nil
}

func addTo(m *ebpf.Map, addrs []netip.Addr) error {
	for _, a := range addrs {
		if err := m.Put(address(a), uint8(1)); err != nil {
			return err
		}
	}
	return nil
}

// keepIn removes all but these addresses from a map.
func keepIn(m *ebpf.Map, addrs []netip.Addr) error {
	want := map[[4]uint32]bool{}
	for _, a := range addrs {
		want[address(a)] = true
	}
	for _, key := range keysOf(m) {
		if want[key] {
			continue
		}
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
	return nil
}

// keysOf returns the addresses in a map.
func keysOf(m *ebpf.Map) (keys [][4]uint32) {
	var key [4]uint32
	var value uint8
	for it := m.Iterate(); it.Next(&key, &value); {
		keys = append(keys, key)
	}
	return keys
}

// Total returns what the program took out of the tunnel.
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
func (r *Receiver) Close() error {
	var err error
	if r.hook != nil {
		err = r.hook.detach()
	}
	if r.pins != nil {
		err = errors.Join(err, r.pins.remove())
	}
	return errors.Join(err, r.objs.Close())
}

// Release leaves the program at work, if it is Lasting, for a successor.
func (r *Receiver) Release() error {
	var err error
	if r.hook != nil {
		err = r.hook.release()
	}
	return errors.Join(err, r.objs.Close())
}
