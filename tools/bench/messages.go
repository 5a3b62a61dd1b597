package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// batch is how many packets go with one system call.
const batch = 64

// messages is a batch of packets for sendmmsg(2) and recvmmsg(2).
type messages struct {
	vec [batch]mmsghdr
	iov [batch]unix.Iovec
	buf [batch][]byte
}

type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

// newMessages makes packets of size bytes.
func newMessages(size int) *messages {
	m := &messages{}
	for i := range m.buf {
		m.buf[i] = make([]byte, size)
		m.iov[i].Base = &m.buf[i][0]
		m.iov[i].SetLen(size)
		m.vec[i].hdr.Iov = &m.iov[i]
		m.vec[i].hdr.SetIovlen(1)
	}
	return m
}

// send sends all packets and returns how many of them went.
func (m *messages) send(fd int) (int, error) { return m.call(unix.SYS_SENDMMSG, fd, 0) }

// receive waits for one packet, takes those that are there, too, and returns
// how many there were.
func (m *messages) receive(fd int) (int, error) {
	return m.call(unix.SYS_RECVMMSG, fd, unix.MSG_WAITFORONE)
}

func (m *messages) call(number uintptr, fd, flags int) (int, error) {
	n, _, e := unix.Syscall6(number, uintptr(fd), uintptr(unsafe.Pointer(&m.vec[0])), batch, uintptr(flags), 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}
