package announce

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// sockets are what the announcements of one round leave by; zero: none is open
// yet. They serve all VIPs of the round, since closing a packet socket waits
// for the kernel's readers (synchronize_net), some 10 ms each time.
type sockets struct {
	arp, na socket
}

// Send makes one announcement.
func (s *sockets) Send(v *VIP) error {
	if v.VIP.Unmap().Is4() {
		return v.wrap(s.sendARP(v))
	}
	return v.wrap(s.sendNA(v))
}

// Close closes what is open.
func (s *sockets) Close() {
	s.arp.close()
	s.na.close()
}

// socket is a socket, opened when it is asked for.
type socket struct {
	fd   int
	open bool
}

// get returns the socket; prepare gets one that was opened now.
func (s *socket) get(family, kind, protocol int, prepare func(fd int) error) (int, error) {
	if s.open {
		return s.fd, nil
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return 0, err
	}
	s.fd, s.open = fd, true
	if err := prepare(fd); err != nil {
		s.close()
		return 0, err
	}
	return fd, nil
}

func (s *socket) close() {
	if s.open {
		unix.Close(s.fd)
		s.open = false
	}
}

// arp returns an ARP announcement: a request (RFC 826) whose sender and target
// protocol addresses are the VIP.
func arp(v *VIP) []byte {
	vip := v.VIP.Unmap().AsSlice()
	p := []byte{0, 1, 8, 0, 6, 4, 0, 1} // Ethernet, IPv4, request
	p = append(append(p, v.MAC[:]...), vip...)
	return append(append(p, 0, 0, 0, 0, 0, 0), vip...)
}

// sendARP broadcasts an ARP announcement.
func (s *sockets) sendARP(v *VIP) error {
	fd, err := s.arp.get(unix.AF_PACKET, unix.SOCK_DGRAM, 0, func(int) error { return nil })
	if err != nil {
		return err
	}
	to := &unix.SockaddrLinklayer{
		Protocol: binary.NativeEndian.Uint16([]byte{unix.ETH_P_ARP >> 8, unix.ETH_P_ARP & 0xff}),
		Ifindex:  v.Index, Halen: 6, Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
	}
	return unix.Sendto(fd, arp(v), 0, to)
}

// advertisement returns a neighbor advertisement with the override flag and the
// target link-layer address option; the kernel fills in the checksum.
func advertisement(v *VIP) []byte {
	const override = 0x20
	p := []byte{136, 0, 0, 0, override, 0, 0, 0}
	p = append(p, v.VIP.AsSlice()...)
	return append(append(p, 2, 1), v.MAC[:]...)
}

// sendNA multicasts a neighbor advertisement to all nodes of the link.
func (s *sockets) sendNA(v *VIP) error {
	fd, err := s.na.get(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6, func(fd int) error {
		// Receivers discard it unless the hop limit proves that it is from the
		// link (RFC 4861 section 7.1.2).
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255)
	})
	if err != nil {
		return err
	}
	to := &unix.SockaddrInet6{ZoneId: uint32(v.Index), Addr: netip.IPv6LinkLocalAllNodes().As16()}
	return unix.Sendto(fd, advertisement(v), 0, to)
}
