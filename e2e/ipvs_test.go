package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/e2e/cluster"
)

// block returns the n-th block of a language in docs/ipvs.md.
func block(t *testing.T, language string, n int) string {
	t.Helper()
	page, err := os.ReadFile("../docs/ipvs.md")
	must(t, err)
	found := regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(found) <= n {
		t.Fatalf("%d blocks of %s", len(found), language)
	}
	return found[n][1]
}

// keepalived's VIP, in docs/ipvs.md.
var ipvsVIP = netip.MustParseAddr("10.77.0.210")

// keepalived balances one VIP by IPVS and Caplance another, as docs/ipvs.md says,
// on one machine and to the same backends. Whatever happens to Caplance, IPVS goes
// on.
func TestBesideKeepalived(t *testing.T) {
	program, err := exec.LookPath("keepalived")
	if err != nil {
		nettest.Unbuilt(t, "keepalived")
	}
	if _, err := os.Stat("/proc/net/ip_vs"); errors.Is(err, os.ErrNotExist) {
		nettest.Unbuilt(t, "IPVS (modprobe ip_vs)")
	}
	c := prepare(t, cluster.Options{Backends: 2, Keyless: true})
	must(t, c.WriteServerConfig(fmt.Sprintf("state_dir = %q\ncontrol = %q\n", filepath.Join(c.Dir, "lb"), c.ServerSocket())+
		block(t, "toml", 0)+fmt.Sprintf("[datapath]\ntype = %q\n", c.Type)))
	// What one does by hand for IPVS' direct routing.
	vip := netip.PrefixFrom(ipvsVIP, 32)
	must(t, c.LB.AddAddr("eth0", vip))
	for _, b := range c.Backends {
		must(t, b.AddAddr("lo", vip))
		must(t, b.Sysctl("net.ipv4.conf.all.arp_ignore", "1"))
		must(t, b.Sysctl("net.ipv4.conf.all.arp_announce", "2"))
	}
	file := filepath.Join(c.Dir, "keepalived.conf")
	must(t, os.WriteFile(file, []byte(block(t, "keepalived", 0)), 0o600))
	keepalived, err := c.LB.Start(program, "--dont-fork", "--log-console", "--check", "--use-file", file,
		"--pid", filepath.Join(c.Dir, "k.pid"), "--checkers_pid", filepath.Join(c.Dir, "c.pid"))
	must(t, err)
	t.Cleanup(func() {
		if err := keepalived.Stop(10 * time.Second); err != nil {
			t.Errorf("keepalived: %v\n%s", err, keepalived.Output())
		}
	})
	must(t, c.StartServer(t.Context()))
	must(t, c.Backends[0].StartAgent(t.Context()))
	second := filepath.Join(c.Dir, "b2.toml")
	must(t, os.WriteFile(second, []byte(fmt.Sprintf("control = %q\nstate_dir = %q\n", c.Backends[1].Socket(), filepath.Join(c.Dir, "b2"))+block(t, "toml", 1)), 0o600))
	must(t, c.Backends[1].StartAgentWith(t.Context(), second))
	must(t, c.AwaitActive(t.Context(), 2))
	both := func(what string) {
		t.Helper()
		for _, vip := range []netip.Addr{ipvsVIP, cluster.VIP4} {
			// A worker hears of a backend some ms after it is active.
			await(t, what+": shares by weight", func() error {
				shares := map[string]int{}
				for range 40 {
					name, err := httpGet(t, c, vip)
					if err != nil {
						t.Fatalf("%s: %v: %v\n%s", what, vip, err, keepalived.Output())
					}
					shares[name]++
				}
				if shares["b1"] != 10 || shares["b2"] != 30 {
					return fmt.Errorf("%v: shares %v, want 10 and 30", vip, shares)
				}
				return nil
			})
		}
	}
	await(t, "keepalived's real servers", func() error {
		table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/ip_vs", keepalived.Process.Pid))
		if n := strings.Count(string(table), "Route"); err != nil || n != 2 {
			return fmt.Errorf("%d: %w\n%s", n, err, table)
		}
		return nil
	})
	both("side by side")
	kept := keepAlive(t, c, ipvsVIP)
	c.Server.Kill()
	must(t, kept())
	must(t, c.StartServer(t.Context()))
	must(t, c.AwaitActive(t.Context(), 2))
	both("Caplance is back")
	must(t, c.StopServer())
	must(t, kept())
	name, err := httpGet(t, c, ipvsVIP)
	if err != nil {
		t.Errorf("IPVS without Caplance: %q, %v", name, err)
	}
}

// keepAlive opens a connection and returns a function that asks by it once more.
func keepAlive(t *testing.T, c *cluster.Cluster, vip netip.Addr) func() error {
	t.Helper()
	conn, err := dial(t, c, netip.AddrPortFrom(vip, cluster.HTTPPort))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	r := bufio.NewReader(conn)
	return func() error {
		if err := conn.SetDeadline(time.Now().Add(slow.Time(5 * time.Second))); err != nil {
			return err
		}
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: vip\r\n\r\n"); err != nil {
			return err
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return errors.Join(err, resp.Body.Close())
	}
}
