package topology

import (
	"fmt"
	"io"
	"runtime"
	"unsafe"

	"github.com/caplance/caplance/core/fastpath"
	"golang.org/x/sys/unix"
)

// Segmentation turns on or off that TCP leaves a link of the host's in
// super-packets. Without, it comes in packets of the MTU, as on a wire.
func (h *Host) Segmentation(link string, on bool) error {
	return h.offload(link, on, unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO)
}

// Checksums turns on or off that packets leave a link of the host's with
// unfinished checksums. What XDP forwards has to be finished.
func (h *Host) Checksums(link string, on bool) error {
	return h.offload(link, on, unix.ETHTOOL_STXCSUM)
}

// PassXDP has the switch's n-th port, from 0 in the order of Attach, take what
// XDP sends from the other end: a veth does so only with a program of its own.
func (s *Switch) PassXDP(n int) (prog io.Closer, err error) {
	return prog, s.Do(func() error {
		prog, err = fastpath.PassXDP(fmt.Sprintf("port%d", n))
		return err
	})
}

// offload switches features of a link by their ethtool commands.
func (h *Host) offload(link string, on bool, features ...uint32) error {
	value := uint32(0)
	if on {
		value = 1
	}
	return h.Do(func() error {
		for _, f := range features {
			if err := ethtool(link, f, value); err != nil {
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
