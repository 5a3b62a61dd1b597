package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/e2e/cluster"
	"github.com/caplance/caplance/e2e/topology"
	"golang.org/x/sys/unix"
)

// adminPort is where the balancer's machine listens on all addresses, as sshd does.
const adminPort = 2222

// freebind lets a socket have an address that is not there yet.
func freebind(_, _ string, c syscall.RawConn) (err error) {
	control := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1) }) // of IPv6, too
	return errors.Join(err, control)
}

// administer has a host answer by TCP at all of its addresses, and by UDP at some: with a
// byte for each that comes.
func administer(t *testing.T, h *topology.Host, addrs ...netip.Addr) {
	t.Helper()
	l, err := h.Listen(fmt.Sprintf("[::]:%d", adminPort))
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(conn, conn)
				conn.Close()
			}()
		}
	}()
	for _, addr := range addrs {
		var pc net.PacketConn
		must(t, h.Do(func() (err error) {
			pc, err = (&net.ListenConfig{Control: freebind}).ListenPacket(t.Context(), "udp", netip.AddrPortFrom(addr, adminPort).String())
			return err
		}))
		t.Cleanup(func() { pc.Close() })
		go func() {
			b := make([]byte, 65536)
			for {
				_, from, err := pc.ReadFrom(b)
				if err != nil {
					return
				}
				pc.WriteTo(b[:1], from)
			}
		}()
	}
}

// reached returns an error unless an address answers at adminPort, by TCP or UDP, from
// a host.
func reached(from *topology.Host, network string, to netip.Addr, size int, within time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), slow.Time(within))
	defer cancel()
	conn, err := from.Dial(ctx, network, netip.AddrPortFrom(to, adminPort).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	if _, err := conn.Write(make([]byte, size)); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}

// asksFrom has a host ask another one from an address of its own and awaits the answer.
func asksFrom(h *topology.Host, network string, src netip.Addr, to netip.AddrPort) error {
	return h.Do(func() error {
		d := net.Dialer{Timeout: slow.Time(5 * time.Second), LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(src, 0))}
		if network == "tcp" {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(src, 0))
		}
		conn, err := d.Dial(network, to.String())
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(slow.Time(5 * time.Second)))
		if _, err := conn.Write([]byte("x")); err != nil {
			return err
		}
		_, err = conn.Read(make([]byte, 1))
		return err
	})
}

// otherProtocol reports whether a packet of a protocol that nobody balances reaches
// the balancer's machine at a VIP.
func otherProtocol(t *testing.T, c *cluster.Cluster) (came bool) {
	t.Helper()
	const proto = 253 // for experiments (RFC 3692)
	open := func(h *topology.Host) (fd int) {
		must(t, h.Do(func() (err error) {
			fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto)
			return err
		}))
		return fd
	}
	in, out := open(c.LB), open(c.Client)
	defer unix.Close(in)
	defer unix.Close(out)
	tv := unix.NsecToTimeval(int64(slow.Time(300 * time.Millisecond)))
	must(t, unix.SetsockoptTimeval(in, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
	must(t, unix.Sendto(out, []byte("hello"), 0, &unix.SockaddrInet4{Addr: cluster.VIP4.As4()}))
	_, _, err := unix.Recvfrom(in, make([]byte, 100), 0)
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		t.Fatal(err)
	}
	return err == nil
}

// What the balancer's machine listens on is not reached at a VIP, unless the
// configuration wants that; services, pings and the machine's own traffic are as ever.
func TestVIPHostAccess(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 1})
	clients := map[bool]netip.Addr{true: netip.MustParseAddr("10.77.0.100"), false: netip.MustParseAddr("fd77::64")}
	administer(t, c.LB, vips...)
	administer(t, c.Client, clients[true], clients[false])
	must(t, c.StartServer(t.Context()))
	must(t, c.StartAgents(t.Context()))
	check := func(when string, open bool) {
		t.Helper()
		for _, vip := range vips {
			for _, network := range []string{"tcp", "udp"} {
				for _, size := range []int{1, 3000} { // of UDP in fragments
					within := 400 * time.Millisecond
					if open {
						within = 5 * time.Second
					}
					if err := reached(c.Client, network, vip, size, within); (err == nil) != open || !open && !isTimeout(err) {
						t.Errorf("%s: %s of %d bytes to the machine at %v: %v", when, network, size, vip, err)
					}
				}
				if err := reached(c.LB, network, vip, 1, 5*time.Second); err != nil {
					t.Errorf("%s: the machine does not reach itself at %v by %s: %v", when, vip, network, err)
				}
				if err := asksFrom(c.LB, network, vip, netip.AddrPortFrom(clients[vip.Is4()], adminPort)); err != nil {
					t.Errorf("%s: the machine asks from %v by %s: %v", when, vip, network, err)
				}
			}
			if !pinged(t, c, vip, 8) || !pinged(t, c, vip, 3000) {
				t.Errorf("%s: %v does not answer to pings", when, vip)
			}
		}
		if otherProtocol(t, c) != open {
			t.Errorf("%s: another protocol reaches the machine: %v", when, !open)
		}
		if err := reached(c.Client, "tcp", netip.MustParseAddr("10.77.0.1"), 1, 5*time.Second); err != nil {
			t.Errorf("%s: the machine at its own address: %v", when, err)
		}
		newWorks(t, c, when, vips...)
	}
	check("by default", false)
	if n := counted(t, c)["vip_unclaimed"]; n < 8 {
		t.Errorf("%d packets counted", n)
	}
	set := func(from, to string) {
		t.Helper()
		if out, code := reloadWith(t, c, edit(from, to)); code != 0 {
			t.Fatal(out)
		}
	}
	set("[datapath]\n", "[datapath]\nvip_host_access = \"always\"\n")
	check("allowed", true)
	stays, err := dial(t, c, netip.AddrPortFrom(cluster.VIP4, adminPort))
	must(t, err)
	defer stays.Close()
	set("\"always\"", "\"own\"")
	check("refused again", false)
	stays.SetDeadline(time.Now().Add(slow.Time(5 * time.Second)))
	_, err = stays.Write([]byte("x"))
	must(t, err)
	if _, err := stays.Read(make([]byte, 1)); err != nil {
		t.Errorf("the machine's connection of before: %v", err)
	}
	c.Server.Kill()
	for _, vip := range vips {
		if err := reached(c.Client, "tcp", vip, 1, 400*time.Millisecond); !isTimeout(err) {
			t.Errorf("without the daemon: the machine at %v: %v", vip, err)
		}
	}
}

// A VIP that was the machine's address before, on whichever link, is still one: the
// operator may have come in by it.
func TestVIPHostAccessOfTheOperator(t *testing.T) {
	for _, link := range []string{"eth0", "lo"} {
		t.Run(link, func(t *testing.T) {
			c := prepare(t, cluster.Options{Backends: 1})
			must(t, c.LB.AddAddr(link, netip.MustParsePrefix(cluster.VIP4.String()+"/32")))
			administer(t, c.LB)
			must(t, c.StartServer(t.Context()))
			must(t, c.StartAgents(t.Context()))
			check := func(when string, own bool) {
				t.Helper()
				for vip, open := range map[netip.Addr]bool{cluster.VIP4: own, cluster.VIP6: false} {
					within := map[bool]time.Duration{false: 400 * time.Millisecond, true: 5 * time.Second}[open]
					if err := reached(c.Client, "tcp", vip, 1, within); (err == nil) != open {
						t.Errorf("%s: the machine at %v: %v", when, vip, err)
					}
				}
			}
			check("by default", true)
			if out, code := reloadWith(t, c, edit("sanity_timeout", "write_timeout = \"9s\"\nsanity_timeout")); code != 0 {
				t.Fatal(out)
			}
			check("after a reload", true)
			c.Server.Kill()
			must(t, c.StartServer(t.Context()))
			check("after a kill", true)
			if out, code := reloadWith(t, c, edit("[datapath]\n", "[datapath]\nvip_host_access = \"never\"\n")); code != 0 {
				t.Fatal(out)
			}
			check("refused", false)
		})
	}
}
