package main

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// What makes and measures load uses bare sockets, a thread to each that
// blocks: the runtime's poller between the two ends would be measured, too.

// socketTimeout is how long a socket waits before it is taken for dead.
const socketTimeout = 2 * time.Second

// openSocket opens an IPv4 socket that blocks, in the calling thread's network
// namespace; kind is SOCK_STREAM or SOCK_DGRAM.
func openSocket(kind int, timeout time.Duration) (fd int, err error) {
	if fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	tv := unix.NsecToTimeval(timeout.Nanoseconds())
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &tv); err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("socket timeout: %w", err)
		}
	}
	return fd, nil
}

// dial connects a socket in the calling thread's network namespace.
func dial(kind int, to netip.AddrPort) (fd int, err error) {
	if fd, err = openSocket(kind, socketTimeout); err != nil {
		return -1, err
	}
	// Interrupted, it goes on by itself; the next call waits for that.
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Connect(fd, sockaddr(to))
	}
	if err != nil && err != unix.EISCONN {
		unix.Close(fd)
		return -1, fmt.Errorf("connect to %v: %w", to, err)
	}
	return fd, nil
}

// listen binds a socket to a port of every address in the calling thread's
// network namespace. Waiting ends at the timeout.
func listen(kind, port int, timeout time.Duration) (fd int, err error) {
	if fd, err = openSocket(kind, timeout); err != nil {
		return -1, err
	}
	err = unix.Bind(fd, &unix.SockaddrInet4{Port: port})
	if err == nil && kind == unix.SOCK_STREAM {
		err = unix.Listen(fd, 4096)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("listen on port %d: %w", port, err)
	}
	return fd, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

// again reports whether a call on a socket only came back early.
func again(err error) bool { return err == unix.EAGAIN || err == unix.EINTR }

// whole repeats a read or a write that a signal of the runtime's cut short: a
// socket with a timeout does not go on by itself.
func whole(call func(int, []byte) (int, error), fd int, buf []byte) (n int, err error) {
	for {
		if n, err = call(fd, buf); err != unix.EINTR {
			return n, err
		}
	}
}
