package e2e

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/caplance/caplance/core/packet"
	"github.com/caplance/caplance/e2e/cluster"
	"github.com/caplance/caplance/e2e/topology"
	"golang.org/x/sys/unix"
)

// udpSocket returns an unconnected socket of the client.
func udpSocket(t testing.TB, c *cluster.Cluster, vip netip.Addr) *net.UDPConn {
	t.Helper()
	local := "0.0.0.0:0"
	if vip.Is6() {
		local = "[::]:0"
	}
	pc, err := c.Client.ListenPacket(local)
	must(t, err)
	t.Cleanup(func() { pc.Close() })
	return pc.(*net.UDPConn)
}

// sniff watches a host's link. The returned function ends it and counts the
// TCP and UDP packets to and from the VIPs.
func sniff(t testing.TB, h *topology.Host, link string) func() (to, from int) {
	t.Helper()
	fd := -1
	must(t, h.Do(func() (err error) {
		const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // network order
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		iface, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		tv := unix.NsecToTimeval(int64(20 * time.Millisecond))
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: iface.Index})
	}))
	stop, done := make(chan struct{}), make(chan struct{})
	to, from := 0, 0
	go func() {
		defer close(done)
		defer unix.Close(fd)
		buf := make([]byte, 65536)
		for {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				select {
				case <-stop:
					return
				default:
					continue
				}
			}
			var p packet.Packet
			if p.Parse(buf[:n]) != nil || p.Kind != packet.Transport {
				continue
			}
			if slices.Contains(vips, p.Key.DstAddr().Addr()) {
				to++
			}
			if slices.Contains(vips, p.Key.SrcAddr().Addr()) {
				from++
			}
		}
	}()
	return func() (int, int) {
		close(stop)
		<-done
		return to, from
	}
}
