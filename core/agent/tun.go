package agent

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openTUN creates a device; it goes away when the file is closed.
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
