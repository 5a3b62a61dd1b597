package main

import (
	"fmt"
	"runtime"
	"unsafe"

	"github.com/caplance/caplance/e2e/topology"
	"golang.org/x/sys/unix"
)

// noOffload makes a host's link carry MTU-size packets, as a wire does: TCP's
// super-packets are cut before they reach it.
func noOffload(h *topology.Host, link string) error {
	return h.Do(func() error {
		for _, what := range []uint32{unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO} {
			if err := ethtool(link, what, 0); err != nil {
				return fmt.Errorf("offload of %s: %w", link, err)
			}
		}
		return nil
	})
}

// ethtool sets a value (struct ethtool_value, linux/ethtool.h).
func ethtool(link string, command, value uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	v := struct{ command, value uint32 }{command, value}
	var request struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(request.name[:unix.IFNAMSIZ-1], link)
	request.data = unsafe.Pointer(&v)
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	runtime.KeepAlive(&v)
	if e != 0 {
		return e
	}
	return nil
}
