package topology

import (
	"net"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// FrameBatch is how many frames SendFrames sends by one system call.
const FrameBatch = 128

// frames is a batch of raw Ethernet frames.
type frames struct {
	fd  int
	vec [FrameBatch]struct { // struct mmsghdr
		hdr unix.Msghdr
		n   uint32
		_   [4]byte
	}
	iov [FrameBatch]unix.Iovec
}

// SendFrames sends n Ethernet frames from a link of the host's, or a few more, as
// fast as one thread can: in batches, with a pause between two, past the queueing
// discipline. next returns one frame after the other.
func (h *Host) SendFrames(link string, n int, pause time.Duration, next func() []byte) error {
	f := &frames{fd: -1}
	if err := h.Do(func() (err error) { f.fd, err = rawSocket(link); return err }); err != nil {
		return err
	}
	defer unix.Close(f.fd)
	for ; n > 0; n -= FrameBatch {
		for i := range f.vec {
			f.set(i, next())
		}
		if err := f.flush(); err != nil {
			return err
		}
		time.Sleep(pause)
	}
	return nil
}

// rawSocket sends Ethernet frames by a link and receives nothing.
func rawSocket(link string) (fd int, err error) {
	iface, err := net.InterfaceByName(link)
	if err != nil {
		return -1, err
	}
	if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, err
	}
	if err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: iface.Index})
	}
	if err != nil {
		unix.Close(fd)
	}
	return fd, err
}

// set makes a frame the i-th of the batch.
func (f *frames) set(i int, frame []byte) {
	f.iov[i].Base = &frame[0]
	f.iov[i].SetLen(len(frame))
	f.vec[i].hdr.Iov = &f.iov[i]
	f.vec[i].hdr.SetIovlen(1)
}

// flush sends the batch, waiting where the link has no room.
func (f *frames) flush() error {
	for sent := 0; sent < len(f.vec); {
		n, _, e := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(f.fd), uintptr(unsafe.Pointer(&f.vec[sent])), uintptr(len(f.vec)-sent), 0, 0, 0)
		if e != 0 && e != unix.ENOBUFS && e != unix.EINTR {
			return e
		}
		if e == 0 {
			sent += int(n)
		}
	}
	return nil
}
