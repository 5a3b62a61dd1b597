package agent

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Device is the TUN device through which packets enter the local stack as if
// they had arrived from the network.
const Device = "caplance0"

// openTUN creates the device; it goes away when the file is closed, however
// the process ends.
func openTUN(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w (is the module tun loaded?)", err)
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		// EXCL: another agent's device is not to be shared.
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_TUN_EXCL)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		unix.Close(fd)
		if errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("device %s: another agent runs in this network namespace: %w", name, err)
		}
		return nil, fmt.Errorf("device %s: %w", name, err)
	}
	// Not before: epoll takes a file without a device for broken.
	return os.NewFile(uintptr(fd), name), nil
}

// dummy is RFC 7600's IPv4 dummy address. Reverse path filtering, even the loose
// kind, drops what comes in by a device without any address
// (net/ipv4/fib_frontend.c, __fib_validate_source); of host scope, it is never
// chosen as a source.
var dummy = &netlink.Addr{
	IPNet: &net.IPNet{IP: net.IPv4(192, 0, 0, 8), Mask: net.CIDRMask(32, 32)},
	Scope: unix.RT_SCOPE_HOST,
}

func linkUp(name string) error {
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.AddrAdd(l, dummy)
	}
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		return fmt.Errorf("device %s up: %w", name, err)
	}
	return nil
}
