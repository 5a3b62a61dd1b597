package daemon

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// announce tells the neighbours on a link that a VIP is here now, so that
// those who knew it elsewhere learn at once: a gratuitous ARP request
// (RFC 5227, §3) or an unsolicited neighbour advertisement (RFC 4861, §7.2.6).
func announce(link string, vip netip.Addr) error {
	iface, err := net.InterfaceByName(link)
	if err != nil {
		return fmt.Errorf("announce %v: %w", vip, err)
	}
	if len(iface.HardwareAddr) != 6 { // lo, tunnels: there is nobody to tell
		return nil
	}
	if vip.Is4() {
		return announce4(iface, vip)
	}
	return announce6(iface, vip)
}

// announce4 broadcasts an ARP request for the address by its owner (RFC 826).
func announce4(iface *net.Interface, vip netip.Addr) error {
	p := []byte{0, 1, 8, 0, 6, 4, 0, 1} // Ethernet, IPv4, request
	p = append(append(p, iface.HardwareAddr...), vip.AsSlice()...)
	p = append(append(p, 0, 0, 0, 0, 0, 0), vip.AsSlice()...)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("announce %v: %w", vip, err)
	}
	defer unix.Close(fd)
	to := &unix.SockaddrLinklayer{
		Protocol: binary.NativeEndian.Uint16([]byte{unix.ETH_P_ARP >> 8, unix.ETH_P_ARP & 0xff}),
		Ifindex:  iface.Index, Halen: 6, Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
	}
	if err := unix.Sendto(fd, p, 0, to); err != nil {
		return fmt.Errorf("announce %v: %w", vip, err)
	}
	return nil
}

// announce6 sends an advertisement to all nodes; the kernel fills in the
// checksum.
func announce6(iface *net.Interface, vip netip.Addr) error {
	p := []byte{136, 0, 0, 0, 0x20, 0, 0, 0} // override what you knew
	p = append(p, vip.AsSlice()...)
	p = append(append(p, 2, 1), iface.HardwareAddr...) // target link-layer address
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	if err != nil {
		return fmt.Errorf("announce %v: %w", vip, err)
	}
	defer unix.Close(fd)
	// Receivers discard it unless the hop limit proves that it is from the link.
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
		return fmt.Errorf("announce %v: %w", vip, err)
	}
	to := &unix.SockaddrInet6{ZoneId: uint32(iface.Index), Addr: netip.MustParseAddr("ff02::1").As16()}
	if err := unix.Sendto(fd, p, 0, to); err != nil {
		return fmt.Errorf("announce %v: %w", vip, err)
	}
	return nil
}
