// Package forward sends packets to backends. The tunnel carries the client's
// IP packet, unchanged, as the payload of a UDP datagram to the backend's
// agent (the wire format of Linux' FOU: no header between), over IPv4 or IPv6
// whatever the packet inside is. Direct mode sends the packet itself to the
// backend's MAC, still addressed to the VIP.
//
//	s.Tunnel(backend, key.TunnelPort(), true, packet) // keeps packet until Flush
//	s.Direct(backend, packet)
//	s.Flush() // one sendmmsg per address family and mode
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

// Overhead returns what the tunnel to addr adds to a packet, bytes.
func Overhead(addr netip.Addr) int {
	if addr.Is4() {
		return Overhead4
	}
	return Overhead6
}

// Sender is one worker's. Only the counters may be used by others.
// Per packet: 0 allocations, 0 locks; system calls as batches fill.
type Sender struct {
	port           uint16
	tunnel, direct [2]batch // IPv4 and IPv6

	Packets     atomic.Uint64
	Bytes       atomic.Uint64 // without the outer headers
	TooLong     atomic.Uint64 // the link's MTU shrank below what we knew
	Unreachable atomic.Uint64 // no route or no neighbour
	Busy        atomic.Uint64 // the device's queue was full
	Failed      atomic.Uint64 // any other error
}

// Open makes a sender whose tunnel is the given UDP port of every backend.
func Open(port uint16) (_ *Sender, err error) {
	s := &Sender{port: port}
	for i := range 2 {
		s.tunnel[i].fd, s.direct[i].fd = -1, -1
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	for i, family := range []int{unix.AF_INET, unix.AF_INET6} {
		err := s.tunnel[i].open(family, unix.IPPROTO_UDP, len(tunnelHeader{}))
		if err == nil {
			err = s.direct[i].open(family, unix.IPPROTO_RAW, 0)
		}
		if family == unix.AF_INET6 && errors.Is(err, unix.EAFNOSUPPORT) { // ipv6.disable=1
			return s, nil
		}
		if err != nil {
			return nil, fmt.Errorf("raw sockets: %w", err)
		}
	}
	return s, nil
}

func index(addr netip.Addr) int {
	if addr.Is4() {
		return 0
	}
	return 1
}

// Tunnel queues packet for the backend's agent at addr. The source port is a
// flow's own, so that routers and network cards spread flows without reordering
// one. The outer header has the packet's ECN field if the agent folds it back (RFC
// 6040, §4.1: normal or compatibility mode). The bytes must stay as they are until
// Flush.
func (s *Sender) Tunnel(addr netip.Addr, src uint16, folds bool, packet []byte) {
	b := &s.tunnel[index(addr)]
	i := s.queue(b, addr, packet)
	if i < 0 {
		return
	}
	c := class(packet)
	if !folds {
		c &^= 3
	}
	b.mark(i, c)
	size := uint16(8 + len(packet))
	b.head[i] = tunnelHeader{byte(src >> 8), byte(src), byte(s.port >> 8), byte(s.port), byte(size >> 8), byte(size)}
}

// Direct queues packet for the backend at addr, which must be on a link of this
// machine and of the packet's family: the kernel routes by addr, whatever the packet's
// destination says. The bytes must stay as they are until Flush.
func (s *Sender) Direct(addr netip.Addr, packet []byte) {
	s.queue(&s.direct[index(addr)], addr, packet)
}

// queue returns the place in the batch that the packet got, or -1.
func (s *Sender) queue(b *batch, addr netip.Addr, packet []byte) int {
	if b.fd < 0 {
		s.Unreachable.Add(1)
		return -1
	}
	if b.n == batchSize {
		s.flush(b)
	}
	return b.add(addr, packet)
}

// SetPort changes the tunnel's port, between two batches.
func (s *Sender) SetPort(port uint16) { s.port = port }

// Flush sends what waits and forgets the packets.
func (s *Sender) Flush() {
	for i := range 2 {
		s.flush(&s.tunnel[i])
		s.flush(&s.direct[i])
	}
}

// flush sends a batch; a datagram that the kernel refuses is counted and
// skipped.
func (s *Sender) flush(b *batch) {
	for at := 0; at < b.n; {
		n, _, e := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(b.fd), uintptr(unsafe.Pointer(&b.vec[at])), uintptr(b.n-at), unix.MSG_DONTWAIT, 0, 0)
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			s.count(e)
			at++
			continue
		}
		bytes := 0
		for i := at; i < at+int(n); i++ {
			bytes += int(b.vec[i].n) - b.header
		}
		s.Packets.Add(uint64(n))
		s.Bytes.Add(uint64(bytes))
		at += int(n)
	}
	for i := range b.n {
		b.iov[i][1].Base = nil // the packets are not kept
	}
	b.n = 0
}

func (s *Sender) count(e unix.Errno) {
	switch e {
	case unix.EMSGSIZE:
		s.TooLong.Add(1)
	case unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENETDOWN:
		s.Unreachable.Add(1)
	case unix.EAGAIN, unix.ENOBUFS:
		s.Busy.Add(1)
	default:
		s.Failed.Add(1)
	}
}

// Close releases the sockets. Nothing may use the sender any more.
func (s *Sender) Close() error {
	var errs []error
	for i := range 2 {
		errs = append(errs, s.tunnel[i].close(), s.direct[i].close())
	}
	return errors.Join(errs...)
}
