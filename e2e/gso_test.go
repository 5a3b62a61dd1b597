package e2e

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/e2e/cluster"
	"golang.org/x/sys/unix"
)

// super is a super-packet: count datagrams of size bytes, sent in one call.
type super struct{ count, size int }

// UDP's super-packets (UDP_SEGMENT, as QUIC sends them) are as good as the
// datagrams in them: each arrives and comes back, and is what was sent. Between
// virtual machines they stay whole all the way to the backend's socket.
func TestUDPSegmentationOffload(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("tunnel over IPv6 %v", v6), func(t *testing.T) {
			c := start(t, cluster.Options{Backends: 2, DataV6: v6})
			for _, vip := range vips {
				for _, s := range []super{{40, 1200}, {2, 1200}, {60, 100}, {52, 1212}} {
					t.Run(fmt.Sprintf("%d of %d bytes to %v", s.count, s.size, vip), func(t *testing.T) {
						sendSupers(t, c, vip, s)
					})
				}
			}
		})
	}
}

// sendSupers sends super-packets to the echo one after another, each when all
// datagrams of the last are back.
func sendSupers(t *testing.T, c *cluster.Cluster, vip netip.Addr, s super) {
	t.Helper()
	const rounds = 20
	pc := udpSocket(t, c, vip)
	must(t, pc.SetReadBuffer(4<<20))
	must(t, segment(pc, s.size))
	for round := range rounds {
		data := make([]byte, s.count*s.size)
		rand.Read(data)
		for i := range s.count {
			binary.BigEndian.PutUint32(data[i*s.size:], uint32(i))
		}
		if _, err := pc.WriteToUDPAddrPort(data, netip.AddrPortFrom(vip, cluster.UDPPort)); err != nil {
			t.Fatal(err)
		}
		if n, err := echoes(pc, data, s); err != nil {
			t.Fatalf("super-packet %d: %d of %d datagrams came back: %v", round, n, s.count, err)
		}
	}
}

// segment makes the kernel cut what is sent into datagrams of size bytes.
func segment(pc *net.UDPConn, size int) error {
	raw, err := pc.SyscallConn()
	if err != nil {
		return err
	}
	var opt error
	err = raw.Control(func(fd uintptr) { opt = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, size) })
	if err != nil {
		return err
	}
	return opt
}

// echoes counts the echoes of a super-packet's datagrams until all are there.
func echoes(pc *net.UDPConn, data []byte, s super) (n int, err error) {
	pc.SetReadDeadline(time.Now().Add(slow.Time(2 * time.Second)))
	seen := make([]bool, s.count)
	for buf := make([]byte, 65536); n < s.count; n++ {
		size, _, err := pc.ReadFromUDPAddrPort(buf)
		if err != nil {
			return n, err
		}
		if size < s.size {
			return n, fmt.Errorf("an echo of %d bytes", size)
		}
		got := buf[size-s.size : size] // without the backend's name
		i := int(binary.BigEndian.Uint32(got))
		if i >= s.count || seen[i] || string(got) != string(data[i*s.size:][:s.size]) {
			return n, fmt.Errorf("datagram %d came back changed, or twice", i)
		}
		seen[i] = true
	}
	return n, nil
}
