package topology

import (
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
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

// Receiving turns on or off that a link of the host's puts packets that come in
// together: GRO, and LRO where there is any, which not all links have.
func (h *Host) Receiving(link string, on bool) error {
	if err := h.offload(link, on, unix.ETHTOOL_SGRO); err != nil {
		return err
	}
	if err := h.flags(link, on, ethFlagLRO); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	return nil
}

// VLANTags turns on or off that a link of the host's keeps VLAN tags beside its
// packets and not in them.
func (h *Host) VLANTags(link string, on bool) error {
	return h.flags(link, on, ethFlagRxVLAN|ethFlagTxVLAN)
}

// Flags of a link (enum ethtool_flags, linux/ethtool.h).
const (
	ethFlagTxVLAN = 1 << 7
	ethFlagRxVLAN = 1 << 8
	ethFlagLRO    = 1 << 15
)

// flags switches flags of a link, and leaves its others alone.
func (h *Host) flags(link string, on bool, flags uint32) error {
	return h.Do(func() error {
		have, err := ethtool(link, unix.ETHTOOL_GFLAGS, 0)
		if err != nil {
			return fmt.Errorf("flags of %s: %w", link, err)
		}
		want := have | flags
		if !on {
			want = have &^ flags
		}
		if _, err := ethtool(link, unix.ETHTOOL_SFLAGS, want); err != nil {
			return fmt.Errorf("flags of %s: %w", link, err)
		}
		return nil
	})
}

// PassXDP has the switch's n-th port, from 0 in the order of Attach, take what
// XDP sends from the other end: a veth does so only with a program of its own.
func (s *Switch) PassXDP(n int) (prog io.Closer, err error) {
	return prog, s.Do(func() error {
		prog, err = passXDP(fmt.Sprintf("port%d", n))
		return err
	})
}

// passXDP attaches a program that passes everything.
func passXDP(name string) (io.Closer, error) {
	l, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("link %s: %w", name, err)
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R0, 2 /* XDP_PASS */), asm.Return(),
	}})
	if err != nil {
		return nil, fmt.Errorf("native XDP on %s: %w", name, err)
	}
	defer prog.Close()
	attached, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: l.Index, Flags: link.XDPDriverMode})
	if err != nil {
		return nil, fmt.Errorf("native XDP on %s: %w", name, err)
	}
	return attached, nil
}

// offload switches features of a link by their ethtool commands.
func (h *Host) offload(link string, on bool, features ...uint32) error {
	value := uint32(0)
	if on {
		value = 1
	}
	return h.Do(func() error {
		for _, f := range features {
			if _, err := ethtool(link, f, value); err != nil {
				return fmt.Errorf("offload of %s: %w", link, err)
			}
		}
		return nil
	})
}

// ethtool sets or gets a value (struct ethtool_value, linux/ethtool.h).
func ethtool(link string, command, value uint32) (uint32, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
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
		return 0, e
	}
	return v.value, nil
}
