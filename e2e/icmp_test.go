package e2e

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/caplance/caplance/core/packet/packettest"
	"github.com/caplance/caplance/e2e/cluster"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A router on a backend's way to a client complains to the VIP, which it takes
// for the sender. The complaint reaches the backend that the flow is at, whose
// kernel then knows the path's MTU; the others do not hear of it.
func TestICMPErrorsReachTheFlowsBackend(t *testing.T) {
	const pathMTU = 1300
	for _, vip := range vips {
		t.Run(vip.String(), func(t *testing.T) {
			c := start(t, cluster.Options{Backends: 4})
			pc := udpSocket(t, c, vip)
			home, _, err := udpAskFrom(pc, vip, []byte("x"))
			must(t, err)
			client := netip.MustParseAddr("10.77.0.100")
			typ, code := uint8(3), uint8(4)
			if vip.Is6() {
				client = netip.MustParseAddr("fd77::64")
				typ, code = 2, 0
			}
			port := netip.MustParseAddrPort(pc.LocalAddr().String()).Port()
			answer := packettest.UDP(netip.AddrPortFrom(vip, cluster.UDPPort), netip.AddrPortFrom(client, port), make([]byte, 1400))
			complaint := tooBigFor(client, typ, code, answer[:100], pathMTU)
			must(t, c.Client.Do(func() error { return sendRaw(complaint) }))

			mtus := func() map[string]int {
				m := map[string]int{}
				for _, b := range c.Backends {
					must(t, b.Do(func() error {
						routes, err := netlink.RouteGet(net.IP(client.AsSlice()))
						if err == nil && len(routes) > 0 {
							m[b.Name] = routes[0].MTU
						}
						return err
					}))
				}
				return m
			}
			await(t, "the backend to learn the path's MTU", func() error {
				if m := mtus(); m[home] != pathMTU {
					return fmt.Errorf("the flow is at %s, MTUs are %v", home, m)
				}
				return nil
			})
			for name, mtu := range mtus() {
				if name != home && mtu == pathMTU {
					t.Errorf("%s heard of a flow that is at %s", name, home)
				}
			}
		})
	}
}

// tooBigFor returns an ICMP error from router about quoted, with the MTU filled in.
func tooBigFor(router netip.Addr, typ, code uint8, quoted []byte, mtu uint16) []byte {
	b := packettest.ICMPError(router, typ, code, quoted)
	icmp := b[20:]
	if router.Is6() {
		icmp = b[40:]
	}
	// The field was zero, so the checksum falls by the value (RFC 1624).
	sum := uint32(binary.BigEndian.Uint16(icmp[2:])) + uint32(^mtu)
	binary.BigEndian.PutUint16(icmp[6:], mtu)
	binary.BigEndian.PutUint16(icmp[2:], uint16(sum+sum>>16))
	return b
}

// sendRaw sends a whole IP packet.
func sendRaw(b []byte) error {
	family := unix.AF_INET
	var to unix.Sockaddr = &unix.SockaddrInet4{Addr: [4]byte(b[16:20])}
	if b[0]>>4 == 6 {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Addr: [16]byte(b[24:40])}
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, b, 0, to)
}
