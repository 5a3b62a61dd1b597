package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/e2e/cluster"
	"golang.org/x/sys/unix"
)

// An agent where the balancer runs, or one that names a VIP, is refused with the
// reason: its packets would circle. The others' go on.
func TestAgentWhereTheBalancerIs(t *testing.T) {
	c := start(t, cluster.Options{Backends: 1, Keyless: true})
	for addr, why := range map[string]string{
		"10.77.0.1":           "is the balancer's own",
		cluster.VIP4.String(): "is the VIP of service web4",
		"10.77.0.255":         "is the broadcast address of 10.77.0.0/24",
		"10.77.0.11":          "",
	} {
		conn, err := c.LB.Dial(t.Context(), "tcp", "10.77.0.1:1338")
		must(t, err)
		conn.SetDeadline(time.Now().Add(slow.Time(10 * time.Second)))
		fmt.Fprintf(conn, "REGISTER b9 %s\n", addr)
		if why != "" {
			b := make([]byte, 1000)
			n, err := conn.Read(b)
			if got := string(b[:n]); err != nil || !strings.HasPrefix(got, "INVALID data IP "+addr+" "+why) {
				t.Errorf("%s: answered %q, %v", addr, got, err)
			}
		}
		conn.Close()
	}
	file := filepath.Join(c.Dir, "here.toml")
	must(t, os.WriteFile(file, fmt.Appendf(nil, "name = 'here'\nserver = '10.77.0.1'\nstate_dir = %q\ncontrol = %q\n", filepath.Join(c.Dir, "here"), filepath.Join(c.Dir, "here.sock")), 0o644))
	agent, err := c.LB.Start(filepath.Join(c.Bin, "caplance"), "agent", "-c", file)
	must(t, err)
	await(t, "the agent to be told", func() error {
		if !strings.Contains(agent.Output(), "is the balancer's own") {
			return errors.New(agent.Output())
		}
		return nil
	})
	for _, vip := range vips {
		if name, _, err := udpAsk(t, c, vip, []byte("hello")); err != nil || name != "b1" {
			t.Errorf("%v: %s answered, %v", vip, name, err)
		}
	}
	must(t, agent.Stop(10*time.Second))
}

// A VIP that becomes a backend's data IP takes that backend away.
func TestVIPThatIsADataIP(t *testing.T) {
	c := start(t, cluster.Options{Backends: 2, Mode: "tunnel"})
	config := c.ServerConfig("") + "[[service]]\nname = \"late\"\nvip = \"10.77.0.12\"\nprotocol = \"tcp\"\nports = [7]\n"
	if c.Backends[1].Data.Is6() {
		config = strings.Replace(config, "10.77.0.12", c.Backends[1].Data.String(), 1)
	}
	must(t, c.WriteServerConfig(config))
	out, code := ctl(t, "reload", "-server", c.ServerSocket())
	if code != 0 {
		t.Fatalf("reload: %s", out)
	}
	must(t, c.AwaitActive(t.Context(), 1))
	if !strings.Contains(c.Server.Output(), "is the VIP of service late") {
		t.Error("the log does not say why b2 has left")
	}
}

// Who asks a VIP on the balancer itself is refused at once; a backend gets
// itself.
func TestVIPFromWithin(t *testing.T) {
	c := start(t, cluster.Options{Backends: 2})
	for _, vip := range vips {
		begun := time.Now()
		conn, err := c.LB.Dial(t.Context(), "tcp", netip.AddrPortFrom(vip, cluster.LinePort).String())
		if !errors.Is(err, syscall.ECONNREFUSED) || time.Since(begun) > slow.Time(time.Second) {
			t.Errorf("%v from the balancer: %v, %v after %v", vip, conn, err, time.Since(begun))
		}
		for _, b := range c.Backends {
			conn, err := b.Dial(t.Context(), "tcp", netip.AddrPortFrom(vip, cluster.LinePort).String())
			must(t, err)
			buf := make([]byte, 10)
			n, err := conn.Read(buf)
			if got := strings.TrimSpace(string(buf[:n])); got != b.Name {
				t.Errorf("%v from %s: %q answered, %v", vip, b.Name, got, err)
			}
			conn.Close()
		}
	}
}

// A packet with TTL 1 gets no further than to the balancer, which says so; be
// its flow new or known.
func TestTTL(t *testing.T) {
	c := start(t, cluster.Options{Backends: 2})
	for _, vip := range vips {
		var conn net.Conn
		must(t, c.Client.Do(func() (err error) {
			conn, err = net.Dial("udp", netip.AddrPortFrom(vip, cluster.UDPPort).String())
			return err
		}))
		defer conn.Close()
		ask := func(ttl int) error {
			must(t, setTTL(conn.(*net.UDPConn), vip, ttl))
			conn.SetDeadline(time.Now().Add(slow.Time(2 * time.Second)))
			if _, err := conn.Write([]byte("hello")); err != nil {
				return err
			}
			_, err := conn.Read(make([]byte, 100))
			return err
		}
		for i, ttl := range []int{1, 2, 2, 2, 1, 64, 64, 1} {
			if err := ask(ttl); ttl == 1 && !errors.Is(err, unix.EHOSTUNREACH) || ttl > 1 && err != nil {
				t.Errorf("%v: datagram %d with TTL %d: %v", vip, i, ttl, err)
			}
		}
	}
	if n := counted(t, c)["ttl_expired"]; n != 6 {
		t.Errorf("%d counted, want 6", n)
	}
}

// setTTL has a socket send with a TTL and read ICMP errors.
func setTTL(conn *net.UDPConn, to netip.Addr, ttl int) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		if to.Is4() {
			set = errors.Join(unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, ttl), unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVERR, 1))
			return
		}
		set = errors.Join(unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, ttl), unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1))
	})
	return errors.Join(err, set)
}
