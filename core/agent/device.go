package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core/netmon"
	"github.com/caplance/caplance/core/reconcile"
	"github.com/caplance/caplance/core/rtnl"
)

// Device is the TUN device through which packets enter the local stack as if
// they had arrived from the network.
const Device = netmon.AgentDevice

// deviceSysctls die with the device. rp_filter 2: the way back to a client is
// not the device (of "all" and the device's the larger value counts).
// addr_gen_mode 1: no link-local address, hence no router solicitations.
var deviceSysctls = map[string]string{
	"net/ipv4/conf/" + Device + "/rp_filter":     "2",
	"net/ipv6/conf/" + Device + "/disable_ipv6":  "0",
	"net/ipv6/conf/" + Device + "/addr_gen_mode": "1",
}

// dummy is RFC 7600's IPv4 dummy address. Reverse path filtering, even the loose
// kind, drops what comes in by a device without any address
// (net/ipv4/fib_frontend.c, __fib_validate_source); of host scope, it is never
// chosen as a source.
var dummy = &netlink.Addr{
	IPNet: &net.IPNet{IP: net.IPv4(192, 0, 0, 8), Mask: net.CIDRMask(32, 32)},
	Scope: unix.RT_SCOPE_HOST,
}

// device is the target that keeps the TUN device. It goes away with its file,
// however the process ends.
type device struct {
	file atomic.Pointer[os.File] // replaced when somebody took the device away
}

// openDevice makes the device, which is the only one of a network namespace.
func openDevice() (*device, error) {
	f, err := openTUN(Device)
	if err != nil {
		return nil, err
	}
	d := &device{}
	d.file.Store(f)
	return d, nil
}

// Write has the local stack receive one IP packet. It may be called at any time.
func (d *device) Write(packet []byte) (int, error) { return d.file.Load().Write(packet) }

// Close removes the device.
func (d *device) Close() error { return d.file.Load().Close() }

// String implements reconcile.Target.
func (d *device) String() string { return "device" }

// Add implements reconcile.Target: it makes the device again if it was deleted
// or has another name, and brings it up. The sysctls come before, for the
// device's first moment.
func (d *device) Add(context.Context, *desired, *desired) error {
	if !d.attached() {
		_ = d.Close() // takes a renamed device away
		f, err := openTUN(Device)
		if err != nil {
			return err
		}
		d.file.Store(f)
	}
	for key, value := range deviceSysctls {
		err := os.WriteFile("/proc/sys/"+key, []byte(value), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
			return fmt.Errorf("device %s: sysctl: %w", Device, err)
		}
	}
	return d.up()
}

func (d *device) up() error {
	l, err := netlink.LinkByName(Device)
	if err == nil {
		if err = netlink.AddrAdd(l, dummy); errors.Is(err, unix.EEXIST) {
			err = nil
		}
	}
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		return fmt.Errorf("device %s up: %w", Device, err)
	}
	return nil
}

// Prune implements reconcile.Target: every state has the device.
func (d *device) Prune(context.Context, *desired, *desired) error { return nil }

// Verify implements reconcile.Target.
func (d *device) Verify(context.Context, *desired) error {
	l, err := netlink.LinkByName(Device)
	gone := errors.As(err, new(netlink.LinkNotFoundError))
	switch {
	case err != nil && !gone:
		return fmt.Errorf("device %s: %w", Device, err)
	case gone || !d.attached():
		return fmt.Errorf("device %s is gone: %w", Device, reconcile.ErrDrift)
	case l.Attrs().RawFlags&unix.IFF_UP == 0:
		return fmt.Errorf("device %s is down: %w", Device, reconcile.ErrDrift)
	}
	addrs, err := rtnl.Dump(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("device %s: %w", Device, err)
	}
	for _, a := range addrs {
		if a.IP.Equal(dummy.IP) {
			return nil
		}
	}
	return fmt.Errorf("device %s has lost its address %v: %w", Device, dummy.IP, reconcile.ErrDrift)
}

// attached reports whether the file still has the device of that name in this
// network namespace.
func (d *device) attached() bool {
	raw, err := d.file.Load().SyscallConn()
	if err != nil {
		return false
	}
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return false
	}
	var of error
	err = raw.Control(func(fd uintptr) { of = unix.IoctlIfreq(int(fd), unix.TUNGETIFF, ifr) })
	if err != nil || of != nil || ifr.Name() != Device {
		return false
	}
	_, err = netlink.LinkByName(Device)
	return err == nil
}
