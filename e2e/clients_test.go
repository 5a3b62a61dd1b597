package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/e2e/cluster"
)

// perService returns a change that has each service say more, or something else.
func perService(from, to string) func(string) string {
	if from == "" {
		return edit("protocol =", to+"\nprotocol =")
	}
	return edit(from, to)
}

// askUDP awaits a backend's answer to a datagram of some size.
func askUDP(c *cluster.Cluster, vip netip.Addr, size int, within time.Duration) error {
	conn, err := c.Client.Dial(context.Background(), "udp", netip.AddrPortFrom(vip, cluster.UDPPort).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(slow.Time(within)))
	if _, err := conn.Write(make([]byte, size)); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 65536))
	return err
}

// Clients that a service does not take open nothing new, and what they had ends;
// whether the policy is asked or the kernel has its table, without the daemon, too.
func TestClientLists(t *testing.T) {
	for _, policy := range []string{"round-robin", "maglev"} {
		t.Run(policy, func(t *testing.T) {
			c := start(t, cluster.Options{Backends: 2, Policy: policy})
			h := hold(t, c, 8)
			set := func(from, to string) {
				t.Helper()
				if out, code := reloadWith(t, c, perService(from, to)); code != 0 {
					t.Fatal(out)
				}
			}
			denied := func(when string) { // of IPv4
				t.Helper()
				if _, err := connect(c, cluster.VIP4, 500*time.Millisecond); !isTimeout(err) {
					t.Errorf("%s: a denied client connects: %v", when, err)
				}
				for _, size := range []int{1, 3000} { // in fragments
					if err := askUDP(c, cluster.VIP4, size, 300*time.Millisecond); !isTimeout(err) {
						t.Errorf("%s: a denied client's datagram of %d bytes: %v", when, size, err)
					}
				}
			}
			deny := `deny = ["10.77.0.100"]`
			set("", deny)
			denied("denied")
			newWorks(t, c, "denied", cluster.VIP6)
			await(t, "the denied client's connections to end", func() error {
				for _, l := range h.lines[:4] {
					if err := l.ping(200 * time.Millisecond); err == nil {
						return fmt.Errorf("one goes on at %s", l.backend)
					}
				}
				return nil
			})
			for _, l := range h.lines[4:] {
				must(t, l.ping(pingTimeout))
			}
			out, code := ctl(t, "explain", "10.77.0.100:4711", netip.AddrPortFrom(cluster.VIP4, cluster.LinePort).String()+"/tcp", "-server", c.ServerSocket())
			if code != 0 || !strings.Contains(out, "10.77.0.100 is in 10.77.0.100/32, which service web4 denies") {
				t.Errorf("explain: %d: %s", code, out)
			}
			rows, err := c.Control().Services(t.Context())
			must(t, err)
			for _, r := range rows {
				if denies := strings.HasSuffix(r.Name, "4"); denies != (r.Denied > 0) {
					t.Errorf("service %s has denied %d packets", r.Name, r.Denied)
				}
			}
			set(deny, `allow = ["10.0.0.0/9", "fd77::/64"]`+"\n"+`deny = ["10.77.0.0/24", "fd77::64"]`)
			denied("allowed, but for its network")
			if _, err := connect(c, cluster.VIP6, 500*time.Millisecond); !isTimeout(err) {
				t.Errorf("a denied client connects by IPv6: %v", err)
			}
			must(t, os.WriteFile(filepath.Join(filepath.Dir(c.ServerFile()), "partners"), []byte("10.77.0.96/28 # they\n"), 0o644))
			set(`deny = ["10.77.0.0/24", "fd77::64"]`, `deny = ["10.77.0.0/24"]`+"\n"+`allow_file = "partners"`)
			newWorks(t, c, "allowed by a longer prefix of a file", vips...)
			must(t, askUDP(c, cluster.VIP4, 3000, 5*time.Second))
		})
	}
}

// A reload with lists of 100 000 prefixes takes no longer than others, and what they say
// holds without the daemon.
func TestLongClientLists(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 2, Policy: "round-robin", Timeout: "5s"})
	file := filepath.Join(filepath.Dir(c.ServerFile()), "denied")
	write := func(more string) {
		t.Helper()
		var text strings.Builder
		for i := range 100_000 {
			fmt.Fprintf(&text, "%d.%d.%d.0/24 # comment\n", 11+i>>16, i>>8&255, i&255)
		}
		must(t, os.WriteFile(file, []byte(text.String()+more+"\n"), 0o644))
	}
	write("192.0.2.1")
	must(t, c.WriteServerConfig(c.ServerConfig("deny_file = \"denied\"")))
	must(t, c.StartServer(t.Context()))
	must(t, c.StartAgents(t.Context()))
	newWorks(t, c, "others are denied", vips...)
	write("10.77.0.100")
	begin := time.Now()
	if out, code := ctl(t, "reload", "-server", c.ServerSocket()); code != 0 || !strings.Contains(out, `service "web4".deny_file`) {
		t.Fatalf("exit code %d: %s", code, out)
	}
	t.Logf("reload in %s", time.Since(begin))
	check := func(when string) {
		t.Helper()
		if _, err := connect(c, cluster.VIP4, 500*time.Millisecond); !isTimeout(err) {
			t.Errorf("%s: a denied client connects: %v", when, err)
		}
	}
	check("denied")
	newWorks(t, c, "denied", cluster.VIP6)
	c.Server.Kill()
	check("without the daemon")
	if c.Type != "userspace" {
		await(t, "a connection placed by the kernel", func() error {
			_, err := connect(c, cluster.VIP6, time.Second)
			return err
		})
		check("placed by the kernel")
	}
	must(t, c.StartServer(t.Context()))
	must(t, c.AwaitActive(t.Context(), 2))
	check("after a restart")
	write("")
	if out, code := ctl(t, "reload", "-server", c.ServerSocket()); code != 0 {
		t.Fatal(out)
	}
	newWorks(t, c, "nobody is denied", vips...)
}

// A source begins so many flows a second and no more, established ones are not hurt, and
// others are not either; in a flood most of which is dropped.
func TestMaxNewFlows(t *testing.T) {
	const rate = 20
	for _, policy := range []string{"round-robin", "maglev"} {
		t.Run(policy, func(t *testing.T) {
			c := start(t, cluster.Options{Backends: 2, Policy: policy})
			h := hold(t, c, 8)
			limit := fmt.Sprintf("max_new_flows = %d", rate)
			if out, code := reloadWith(t, c, perService("", limit)); code != 0 {
				t.Fatal(out)
			}
			flood := func() { // each socket is a flow
				t.Helper()
				begin := time.Now()
				var socks []net.PacketConn
				defer func() {
					for _, s := range socks {
						s.Close()
					}
				}()
				for range 10 * rate {
					pc, err := c.Client.ListenPacket("0.0.0.0:0")
					must(t, err)
					socks = append(socks, pc)
					_, err = pc.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(cluster.VIP4, cluster.UDPPort)))
					must(t, err)
				}
				took := time.Since(begin)
				var got atomic.Int64
				var wg sync.WaitGroup
				for _, s := range socks {
					s.SetReadDeadline(time.Now().Add(slow.Time(time.Second)))
					wg.Go(func() {
						if _, _, err := s.ReadFrom(make([]byte, 100)); err == nil {
							got.Add(1)
						}
					})
				}
				wg.Wait()
				answered := int(got.Load())
				// the burst, and what comes meanwhile
				if most := rate + int(2*rate*took/time.Second) + 5; answered < rate || answered > most {
					t.Errorf("%d of %d flows in %s, want %d to %d", answered, len(socks), took, rate, most)
				}
			}
			flood()
			h.check(t, "the source is limited")
			if rows, err := c.Control().Services(t.Context()); err != nil || !slices.ContainsFunc(rows, func(r api.ServiceRow) bool { return r.Name == "echo4" && r.Limited > 0 }) {
				t.Errorf("services: %+v, %v", rows, err)
			}
			out, code := ctl(t, "explain", "10.77.0.100:4711", netip.AddrPortFrom(cluster.VIP4, cluster.LinePort).String()+"/tcp", "-server", c.ServerSocket())
			if code != 0 || !strings.Contains(out, "at most 20 new flows a second from its source") {
				t.Errorf("explain: %d: %s", code, out)
			}
			newWorks(t, c, "another service and another source", cluster.VIP6)
			if out, code := reloadWith(t, c, perService(limit, "max_new_flows = 0")); code != 0 {
				t.Fatal(out)
			}
			h.check(t, "no limit any more")
			newWorks(t, c, "no limit any more", vips...)
		})
	}
}
