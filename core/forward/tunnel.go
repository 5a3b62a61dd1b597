// Package forward sends packets to backends. The tunnel carries the client's
// IP packet, unchanged, as the payload of a UDP datagram to the backend's
// agent (the wire format of Linux' FOU: no header between), over IPv4 or IPv6
// whatever the packet inside is.
//
//	t.Send(backend, flowHash, packet) // keeps packet until Flush
//	t.Flush()                         // one sendmmsg per address family
package forward

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Overhead of the tunnel, bytes: the outer IP header and UDP's.
const (
	Overhead4 = 20 + 8
	Overhead6 = 40 + 8
)

// Overhead is what the tunnel to addr adds to a packet, bytes.
func Overhead(addr netip.Addr) int {
	if addr.Is4() {
		return Overhead4
	}
	return Overhead6
}

// Tunnel is one worker's sender. Only the counters may be used by others.
// Per packet: 0 allocations, 0 locks; system calls as batches fill.
type Tunnel struct {
	port uint16
	v4   batch
	v6   batch

	Packets     atomic.Uint64
	Bytes       atomic.Uint64 // without the outer headers
	TooLong     atomic.Uint64 // the path's MTU shrank below what we knew
	Unreachable atomic.Uint64 // no route or no neighbour
	Busy        atomic.Uint64 // the device's queue was full
	Failed      atomic.Uint64 // any other error
}

// batchSize is how many datagrams one sendmmsg carries.
const batchSize = 64

// batch is a raw UDP socket with what waits to be sent. The kernel writes the
// IP header, so it also chooses the source address and honours routes, rules
// and path MTUs. A raw socket, since the source port changes with the flow.
type batch struct {
	fd   int
	n    int
	vec  []mmsghdr
	iov  [][2]unix.Iovec
	head [][8]byte
	dst  []unix.RawSockaddrInet6 // as large as a RawSockaddrInet4
}

type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

// Open makes a tunnel to the given UDP port of every backend.
func Open(port uint16) (*Tunnel, error) {
	t := &Tunnel{port: port}
	fd4, err := open(unix.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("tunnel socket for IPv4: %w", err)
	}
	t.v4.init(fd4)
	fd6, err := open(unix.AF_INET6)
	if errors.Is(err, unix.EAFNOSUPPORT) { // ipv6.disable=1
		t.v6.fd = -1
		return t, nil
	}
	if err != nil {
		unix.Close(fd4)
		return nil, fmt.Errorf("tunnel socket for IPv6: %w", err)
	}
	t.v6.init(fd6)
	return t, nil
}

// open makes a raw UDP socket that sends with DF and receives nothing.
func open(family int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_UDP)
	if err != nil {
		return -1, err
	}
	// A raw socket gets a copy of every UDP packet: a filter that keeps 0 bytes.
	nothing := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing[0]})
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20)
	}
	if err == nil && family == unix.AF_INET {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
	}
	if err == nil && family == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
	}
	if err == nil && family == unix.AF_INET6 { // checksums are not optional over IPv6 (RFC 8200, §8.1)
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_CHECKSUM, 6)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func (b *batch) init(fd int) {
	b.fd = fd
	b.vec = make([]mmsghdr, batchSize)
	b.iov = make([][2]unix.Iovec, batchSize)
	b.head = make([][8]byte, batchSize)
	b.dst = make([]unix.RawSockaddrInet6, batchSize)
	for i := range b.vec {
		b.iov[i][0].Base = &b.head[i][0]
		b.iov[i][0].SetLen(8)
		h := &b.vec[i].hdr
		h.Iov = &b.iov[i][0]
		h.SetIovlen(2)
		h.Name = (*byte)(unsafe.Pointer(&b.dst[i]))
	}
}

// Send queues packet for the backend's agent at addr. flow picks the source
// port, so that routers and network cards spread flows without reordering
// one. The bytes must stay as they are until Flush.
func (t *Tunnel) Send(addr netip.Addr, flow uint64, packet []byte) {
	b := &t.v4
	if !addr.Is4() {
		b = &t.v6
	}
	if b.fd < 0 {
		t.Unreachable.Add(1)
		return
	}
	if b.n == batchSize {
		t.flush(b)
	}
	i := b.n
	b.n++
	src := 0xc000 | uint16(flow>>48)&0x3fff // the dynamic ports, RFC 6335
	size := uint16(8 + len(packet))
	b.head[i] = [8]byte{byte(src >> 8), byte(src), byte(t.port >> 8), byte(t.port), byte(size >> 8), byte(size)}
	b.iov[i][1].Base = unsafe.SliceData(packet)
	b.iov[i][1].SetLen(len(packet))
	if addr.Is4() {
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&b.dst[i]))
		*sa = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: addr.As4()}
		b.vec[i].hdr.Namelen = unix.SizeofSockaddrInet4
		return
	}
	b.dst[i] = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: addr.As16()}
	b.vec[i].hdr.Namelen = unix.SizeofSockaddrInet6
}

// Flush sends what waits and forgets the packets.
func (t *Tunnel) Flush() {
	t.flush(&t.v4)
	t.flush(&t.v6)
}

// flush sends a batch; a datagram that the kernel refuses is counted and
// skipped.
func (t *Tunnel) flush(b *batch) {
	for at := 0; at < b.n; {
		n, _, e := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(b.fd), uintptr(unsafe.Pointer(&b.vec[at])), uintptr(b.n-at), unix.MSG_DONTWAIT, 0, 0)
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			t.count(e)
			at++
			continue
		}
		bytes := 0
		for i := at; i < at+int(n); i++ {
			bytes += int(b.vec[i].n) - 8
		}
		t.Packets.Add(uint64(n))
		t.Bytes.Add(uint64(bytes))
		at += int(n)
	}
	for i := range b.n {
		b.iov[i][1].Base = nil
	}
	b.n = 0
}

func (t *Tunnel) count(e unix.Errno) {
	switch e {
	case unix.EMSGSIZE:
		t.TooLong.Add(1)
	case unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENETDOWN:
		t.Unreachable.Add(1)
	case unix.EAGAIN, unix.ENOBUFS:
		t.Busy.Add(1)
	default:
		t.Failed.Add(1)
	}
}

// Close releases the sockets. Nothing may use the tunnel any more.
func (t *Tunnel) Close() error {
	err := unix.Close(t.v4.fd)
	if t.v6.fd >= 0 {
		err = errors.Join(err, unix.Close(t.v6.fd))
	}
	return err
}
