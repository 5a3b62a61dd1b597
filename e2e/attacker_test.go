package e2e

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"unsafe"

	"github.com/caplance/caplance/core/packet"
	"github.com/caplance/caplance/core/packet/packettest"
	"github.com/caplance/caplance/e2e/topology"
	"golang.org/x/sys/unix"
)

// flood sends SYNs to a VIP from addresses and ports at random, as fast as one
// thread can: raw frames, a batch to a system call, past the queueing
// discipline.
type flood struct {
	to   [6]byte // link-layer address
	vip  netip.AddrPort
	seed uint64

	vec [floodBatch]struct { // struct mmsghdr
		hdr unix.Msghdr
		n   uint32
		_   [4]byte
	}
	iov [floodBatch]unix.Iovec
}

const floodBatch = 128

// send sends n SYNs from a host's link.
func (f *flood) send(h *topology.Host, link string, n int) error {
	fd := -1
	if err := h.Do(func() (err error) { fd, err = rawSocket(link); return err }); err != nil {
		return err
	}
	defer unix.Close(fd)
	rng := rand.New(rand.NewPCG(f.seed, 0))
	for ; n > 0; n -= floodBatch {
		for i := range f.vec {
			f.set(i, f.frame(rng))
		}
		if err := f.flush(fd); err != nil {
			return err
		}
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

// frame is a SYN from somebody.
func (f *flood) frame(rng *rand.Rand) []byte {
	r := rng.Uint32()
	from := netip.AddrFrom4([4]byte{198, 18 | byte(r>>16&1), byte(r >> 8), byte(r)})
	syn := packettest.TCP(netip.AddrPortFrom(from, uint16(1024+rng.Uint32N(64000))), f.vip, packet.SYN, nil)
	b := append(make([]byte, 0, 64), f.to[:]...)
	b = append(b, 2, 0, 0, 0, 0, 1, unix.ETH_P_IP>>8, unix.ETH_P_IP&0xff)
	return append(b, syn...)
}

// set makes a frame the i-th of the batch.
func (f *flood) set(i int, frame []byte) {
	f.iov[i].Base = &frame[0]
	f.iov[i].SetLen(len(frame))
	f.vec[i].hdr.Iov = &f.iov[i]
	f.vec[i].hdr.SetIovlen(1)
}

// flush sends the batch, waiting where the link has no room.
func (f *flood) flush(fd int) error {
	for sent := 0; sent < len(f.vec); {
		n, _, e := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&f.vec[sent])), uintptr(len(f.vec)-sent), 0, 0, 0)
		if e != 0 && e != unix.ENOBUFS && e != unix.EINTR {
			return e
		}
		if e == 0 {
			sent += int(n)
		}
	}
	return nil
}
