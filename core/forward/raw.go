package forward

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Raw sends finished IP packets, header and all: the ICMP errors that go back
// to clients. It must not be used by two goroutines at once.
type Raw struct{ fd4, fd6 int }

// OpenRaw makes the sockets.
func OpenRaw() (*Raw, error) {
	r := &Raw{fd6: -1}
	var err error
	const kind = unix.SOCK_RAW | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	if r.fd4, err = unix.Socket(unix.AF_INET, kind, unix.IPPROTO_RAW); err != nil {
		return nil, fmt.Errorf("raw socket for IPv4: %w", err)
	}
	r.fd6, err = unix.Socket(unix.AF_INET6, kind, unix.IPPROTO_RAW)
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		unix.Close(r.fd4)
		return nil, fmt.Errorf("raw socket for IPv6: %w", err)
	}
	return r, nil
}

// Send hands one packet to the kernel's routing.
func (r *Raw) Send(packet []byte) error {
	if packet[0]>>4 == 4 {
		return unix.Sendto(r.fd4, packet, 0, &unix.SockaddrInet4{Addr: [4]byte(packet[16:20])})
	}
	return unix.Sendto(r.fd6, packet, 0, &unix.SockaddrInet6{Addr: [16]byte(packet[24:40])})
}

// Close releases the sockets.
func (r *Raw) Close() error {
	err := unix.Close(r.fd4)
	if r.fd6 >= 0 {
		err = errors.Join(err, unix.Close(r.fd6))
	}
	return err
}
