package e2e

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/core/packet/packettest"
	"github.com/caplance/caplance/e2e/cluster"
	"golang.org/x/sys/unix"
)

// pinged reports whether a VIP answers to an ICMP echo request with so much data
// within some time.
func pinged(t *testing.T, c *cluster.Cluster, vip netip.Addr, size int) (answered bool) {
	t.Helper()
	family, proto := unix.AF_INET6, unix.IPPROTO_ICMPV6
	request, answer := byte(128), byte(129)
	var to unix.Sockaddr = &unix.SockaddrInet6{Addr: vip.As16()}
	if vip.Is4() {
		family, proto, request, answer = unix.AF_INET, unix.IPPROTO_ICMP, 8, 0
		to = &unix.SockaddrInet4{Addr: vip.As4()}
	}
	must(t, c.Client.Do(func() error {
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		tv := unix.NsecToTimeval(int64(slow.Time(300 * time.Millisecond)))
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			return err
		}
		b := append([]byte{request, 0, 0, 0, 0xca, 0x91, 0, 1}, make([]byte, size)...)
		if vip.Is4() { // the kernel computes that of ICMPv6
			binary.BigEndian.PutUint16(b[2:], ^packettest.Sum(0, b))
		}
		if err := unix.Sendto(fd, b, 0, to); err != nil {
			return err
		}
		answered = awaitEcho(fd, answer, vip.Is4())
		return nil
	}))
	return answered
}

// awaitEcho reads from a raw socket, whose packets have their header in IPv4 alone.
func awaitEcho(fd int, answer byte, header bool) bool {
	buf := make([]byte, 65536)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return false
		}
		b := buf[:n]
		if header {
			b = b[20:]
		}
		if len(b) >= 8 && b[0] == answer && b[4] == 0xca && b[5] == 0x91 {
			return true
		}
	}
}

// A VIP answers to pings always, never, or while it has eligible backends: after a
// start, after a reload, and as backends come and go. In fragments, too.
func TestICMPEcho(t *testing.T) {
	c := start(t, cluster.Options{Backends: 1})
	b := c.Backends[0]
	check := func(when string, want bool) {
		t.Helper()
		for _, vip := range vips {
			await(t, fmt.Sprintf("%s: %v to answer %v", when, vip, want), func() error {
				if got := pinged(t, c, vip, 8); got != want {
					return fmt.Errorf("it is %v", got)
				}
				return nil
			})
			if got := pinged(t, c, vip, 3000); got != want {
				t.Errorf("%s: %v answers to fragments: %v", when, vip, got)
			}
		}
	}
	answer := func(from, to string) {
		t.Helper()
		if out, code := reloadWith(t, c, func(toml string) string {
			return strings.ReplaceAll(strings.ReplaceAll(toml, from, ""), "name = \"web", to+"name = \"web")
		}); code != 0 {
			t.Fatal(out)
		}
	}
	never, backends := "icmp_echo = \"never\"\n", "icmp_echo = \"backends\"\n"
	check("by default", true)
	answer("nothing", never)
	check("never", false)
	newWorks(t, c, "never", vips...)
	answer(never, backends)
	check("with a backend", true)
	_, err := b.Call("Pause")
	must(t, err)
	check("with a paused one", false)
	_, err = b.Call("Resume")
	must(t, err)
	check("with a backend again", true)
	must(t, b.StopAgent())
	check("without backends", false)
	answer(backends, "")
	check("without backends, by default", true)
}
