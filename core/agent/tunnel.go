package agent

// The receiving loop. Per packet: 0 allocations, 0 locks, 1 system call (the
// write to the TUN device), and 1 recvmmsg for up to batchSize packets.

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core/protocol"
)

const (
	batchSize  = 64
	bufferSize = 64 << 10 // the largest UDP payload fits
	// socketBuffer holds some 10 ms of full-size packets at 10 Gbit/s.
	socketBuffer = 16 << 20
)

// tunnel receives what balancers send.
type tunnel struct {
	Counters
	conn   *net.UDPConn
	raw    syscall.RawConn
	out    io.Writer // takes one IP packet at a time
	allow  atomic.Pointer[peers]
	tag    atomic.Pointer[string] // that sanity datagrams carry; nil: none is expected
	nonces chan string            // what is not read is dropped: it is sent again
	proofs chan arrival

	vec  []mmsghdr
	iov  []unix.Iovec
	from []unix.RawSockaddrInet6 // as large as a RawSockaddrInet4
	ctl  []ancillary
	buf  []byte

	n    int // result of the last recvmmsg
	errn syscall.Errno
	recv func(fd uintptr) bool // made once: a closure allocates
}

type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

// ancillary is the one control message that the socket gives: IP_TOS, a byte, or
// IPV6_TCLASS, an int (ip(7), ipv6(7)).
type ancillary struct {
	unix.Cmsghdr
	data [8]byte
}

// openTunnel binds the tunnel's port. What is in the packets goes to out, which
// must be set before Run.
func openTunnel(ctx context.Context, addr netip.AddrPort) (*tunnel, error) {
	network := "udp4"
	if addr.Addr().Is6() {
		network = "udp6"
	}
	c, err := new(net.ListenConfig).ListenPacket(ctx, network, addr.String())
	if err != nil {
		return nil, fmt.Errorf("tunnel: %w (does another agent run here, or is data_ip not an address of this machine?)", err)
	}
	t := &tunnel{conn: c.(*net.UDPConn), nonces: make(chan string, 1), proofs: make(chan arrival, protocol.MaxEchoes)}
	if t.raw, err = t.conn.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("tunnel: %w", err), c.Close())
	}
	t.raw.Control(func(fd uintptr) {
		// Without CAP_NET_ADMIN the kernel's own limit has to do.
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer) != nil {
			t.conn.SetReadBuffer(socketBuffer)
		}
		// What a balancer's program sends over IPv6 has no checksum (RFC 6935); it
		// comes here while nothing is attached to the link.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_NO_CHECK6_RX, 1)
		if addr.Addr().Is6() {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1)
		} else {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
		}
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("tunnel: %w", err), c.Close())
	}
	t.allow.Store(&peers{})
	t.vec = make([]mmsghdr, batchSize)
	t.iov = make([]unix.Iovec, batchSize)
	t.from = make([]unix.RawSockaddrInet6, batchSize)
	t.ctl = make([]ancillary, batchSize)
	t.buf = make([]byte, batchSize*bufferSize)
	for i := range t.vec {
		t.iov[i].Base = &t.buf[i*bufferSize]
		t.iov[i].SetLen(bufferSize)
		h := &t.vec[i].hdr
		h.Iov, h.Iovlen = &t.iov[i], 1
		h.Name = (*byte)(unsafe.Pointer(&t.from[i]))
		h.Control = (*byte)(unsafe.Pointer(&t.ctl[i]))
	}
	t.recv = t.recvmmsg
	return t, nil
}

// Run delivers packets until ctx ends, which is no error.
func (t *tunnel) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { t.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		err := t.step()
		if err == nil {
			continue
		}
		if ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		return fmt.Errorf("tunnel: %w", err)
	}
}

// Close releases the port.
func (t *tunnel) Close() error { return t.conn.Close() }

// step waits for packets and delivers one batch.
func (t *tunnel) step() error {
	if err := t.raw.Read(t.recv); err != nil {
		return err
	}
	if t.errn != 0 {
		if t.errn == unix.EINTR || t.errn == unix.ECONNREFUSED {
			return nil
		}
		return os.NewSyscallError("recvmmsg", t.errn)
	}
	allow := t.allow.Load()
	for i := range t.n {
		t.deliver(allow, t.source(i), t.class(i), t.buf[i*bufferSize:][:t.vec[i].n])
	}
	return nil
}

func (t *tunnel) recvmmsg(fd uintptr) bool {
	for i := range t.vec { // the kernel shortened them
		t.vec[i].hdr.Namelen = unix.SizeofSockaddrInet6
		t.vec[i].hdr.SetControllen(int(unsafe.Sizeof(ancillary{})))
	}
	n, _, e := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&t.vec[0])), batchSize, unix.MSG_DONTWAIT, 0, 0)
	t.n, t.errn = int(n), e
	return e != unix.EAGAIN
}

func (t *tunnel) source(i int) netip.Addr {
	if t.from[i].Family == unix.AF_INET {
		return netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(&t.from[i])).Addr)
	}
	return netip.AddrFrom16(t.from[i].Addr)
}

// class returns the DSCP and ECN of a datagram's outer header.
func (t *tunnel) class(i int) uint8 {
	c := &t.ctl[i]
	if int(t.vec[i].hdr.Controllen) < unix.CmsgLen(1) {
		return 0
	}
	if c.Type == unix.IPV6_TCLASS {
		return uint8(binary.NativeEndian.Uint32(c.data[:]))
	}
	return c.data[0]
}
