package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core/agent"
	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/control"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/core/ruleset"
	"github.com/caplance/caplance/e2e/cluster"
)

// repairTime is what the repair of a backend's machine may take.
const repairTime = 2 * time.Second

// What somebody does to the machine of b1, which of the agent's targets counts
// it, and until then connections may stand still.
type damage struct {
	what   string
	target string // "": no drift, the agent follows or need not
	do     func(c *cluster.Cluster, b *cluster.Backend) error
}

var damages = []damage{
	{"VIPs deleted", "addresses", inside(func() error {
		return errors.Join(delAddr("lo", cluster.VIP4), delAddr("lo", cluster.VIP6))
	})},
	{"lo down and up", "addresses", inside(func() error { return restart("lo") })},
	{"arp_ignore set back", "addresses", func(_ *cluster.Cluster, b *cluster.Backend) error {
		return b.Sysctl("net.ipv4.conf.all.arp_ignore", "0")
	}},
	{"arp_announce set back", "addresses", func(_ *cluster.Cluster, b *cluster.Backend) error {
		return b.Sysctl("net.ipv4.conf.all.arp_announce", "0")
	}},
	{"ruleset flushed", "clamp", inside(flushRuleset)},
	{"clamp's rule deleted", "clamp", inside(deleteClampRule)},
	{"program detached", "receiver", func(_ *cluster.Cluster, b *cluster.Backend) error { return b.DetachPrograms("eth0") }},
	{"device deleted", "device", inside(func() error { return onLink(agent.Device, netlink.LinkDel) })},
	{"device down", "device", inside(func() error { return onLink(agent.Device, netlink.LinkSetDown) })},
	{"data link down and up", "", func(c *cluster.Cluster, b *cluster.Backend) error {
		if err := b.Do(func() error { return restart("eth0") }); err != nil {
			return err
		}
		return b.AddAddr("eth0", addrsOf(b)[1]) // IPv6 addresses go with the link
	}},
	{"data link made again", "receiver", func(c *cluster.Cluster, b *cluster.Backend) error {
		if err := b.Do(func() error { return onLink("eth0", netlink.LinkDel) }); err != nil {
			return err
		}
		return c.Switch.Attach(b.Host, "eth0", addrsOf(b)...)
	}},
	{"data link with another MAC", "", inside(func() error {
		return onLink("eth0", func(l netlink.Link) error {
			return netlink.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 0, 0x11})
		})
	})},
	{"smaller MTU", "", func(_ *cluster.Cluster, b *cluster.Backend) error { return b.SetMTU("eth0", 1400) }},
	{"another default route", "", func(_ *cluster.Cluster, b *cluster.Backend) error {
		return b.Route(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("10.77.0.100"))
	}},
	{"data link renamed", "", func(_ *cluster.Cluster, b *cluster.Backend) error {
		err := b.Do(func() error {
			return errors.Join(onLink("eth0", netlink.LinkSetDown), rename("eth0", "lan0"), onLink("lan0", netlink.LinkSetUp))
		})
		return errors.Join(err, b.AddAddr("lan0", addrsOf(b)[1]))
	}},
}

// Whatever is done to a backend's machine is put right by its agent: its
// connections go on, and new ones work within two seconds.
func TestAgentRepairsItsMachine(t *testing.T) {
	c := start(t, cluster.Options{Backends: 2})
	b := c.Backends[0]
	untilNewWork(t, c, time.Now())
	var lines []*line
	for _, vip := range vips {
		lines = append(lines, openLines(t, c, vip, 20*len(c.Backends))...)
	}
	if n := byBackend(lines)[b.Name]; n < 20 {
		t.Fatalf("%d connections at %s prove little", n, b.Name)
	}
	owned := b.Do(ruleset.CanOwn) == nil
	for _, d := range damages {
		if d.target == "receiver" && c.Type == "userspace" {
			if d.what == "program detached" {
				continue // none is attached
			}
			d.target = "" // there is no receiver to be repaired
		}
		t.Run(d.what, func(t *testing.T) {
			before, err := control.AgentStatus(t.Context(), b.Socket())
			must(t, err)
			began := time.Now()
			err = d.do(c, b)
			if d.target == "clamp" && owned { // nobody can change it: no drift
				d.target = ""
				if d.what != "ruleset flushed" && errors.Is(err, unix.EPERM) {
					err = nil
				}
			}
			must(t, err)
			newOnes := untilNewWork(t, c, began)
			status := untilWell(t, b, d.target, before, began)
			// What was lost in between is sent again after 0.2 s, 0.6 s, 1.4 s, 3 s.
			old, broken := pingAll(lines, 2*repairTime)
			t.Logf("new connections work after %s, the agent is well after %s, old ones answer within %s", newOnes, status, old)
			if most := slow.Promise(repairTime); newOnes > most || status > most || len(broken) > 0 {
				t.Errorf("new connections work after %s, the agent is well after %s, %d of %d connections are broken: %v",
					newOnes, status, len(broken), len(lines), broken)
			}
		})
	}
}

// pingAll pings connections at once and returns the longest time that one took,
// and the errors of those that did not answer.
func pingAll(lines []*line, limit time.Duration) (longest time.Duration, broken []error) {
	var g sync.WaitGroup
	var mu sync.Mutex
	for _, l := range lines {
		g.Go(func() {
			began := time.Now()
			err := l.ping(limit)
			mu.Lock()
			defer mu.Unlock()
			longest = max(longest, time.Since(began))
			if err != nil {
				broken = append(broken, err)
			}
		})
	}
	g.Wait()
	return longest, broken
}

// untilNewWork returns when connections to both VIPs have been answered by every
// backend, one after another without a failure.
func untilNewWork(t *testing.T, c *cluster.Cluster, began time.Time) time.Duration {
	t.Helper()
	await(t, "new connections", func() error {
		for _, vip := range vips {
			names := map[string]bool{}
			for range 3 * len(c.Backends) {
				name, err := firstLine(t, c, vip)
				if err != nil {
					return err
				}
				names[name] = true
			}
			if len(names) != len(c.Backends) {
				return fmt.Errorf("%v: backends %v answered", vip, names)
			}
		}
		return nil
	})
	return time.Since(began)
}

// firstLine asks a new connection for its backend, and does not wait for lost
// packets to be sent again.
func firstLine(t *testing.T, c *cluster.Cluster, vip netip.Addr) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), slow.Time(150*time.Millisecond))
	defer cancel()
	conn, err := c.Client.Dial(ctx, "tcp", netip.AddrPortFrom(vip, cluster.LinePort).String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(slow.Time(150 * time.Millisecond)))
	name, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(name), err
}

// untilWell returns when the agent says that all is well, and has counted the
// drift.
func untilWell(t *testing.T, b *cluster.Backend, target string, before api.AgentStatus, began time.Time) time.Duration {
	t.Helper()
	await(t, "the agent's machine", func() error {
		now, err := control.AgentStatus(t.Context(), b.Socket())
		if err != nil {
			return err
		}
		if !now.Healthy {
			return errors.New(now.Summary)
		}
		for i, row := range now.Targets {
			if row.Name == target && row.Drifts == before.Targets[i].Drifts {
				return fmt.Errorf("no drift is counted in %+v", row)
			}
		}
		return nil
	})
	return time.Since(began)
}

// inside has something done in the namespace of the backend.
func inside(do func() error) func(*cluster.Cluster, *cluster.Backend) error {
	return func(_ *cluster.Cluster, b *cluster.Backend) error { return b.Do(do) }
}

// addrsOf returns what the cluster gave a backend's link.
func addrsOf(b *cluster.Backend) []netip.Prefix {
	return []netip.Prefix{
		netip.PrefixFrom(b.Data, 24),
		netip.PrefixFrom(netip.MustParseAddr(fmt.Sprintf("fd77::%x", b.Data.As4()[3])), 64),
	}
}

func onLink(name string, do func(netlink.Link) error) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	return do(l)
}

func rename(name, to string) error {
	return onLink(name, func(l netlink.Link) error { return netlink.LinkSetName(l, to) })
}

func restart(name string) error {
	return errors.Join(onLink(name, netlink.LinkSetDown), onLink(name, netlink.LinkSetUp))
}

func delAddr(name string, a netip.Addr) error {
	return delPrefix(name, netip.PrefixFrom(a, a.BitLen()))
}

func delPrefix(name string, p netip.Prefix) error {
	return onLink(name, func(l netlink.Link) error {
		return netlink.AddrDel(l, &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}})
	})
}

func deleteClampRule() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "caplance-agent"}
	rules, err := conn.GetRules(table, &nftables.Chain{Name: "output", Table: table})
	if err != nil || len(rules) != 1 {
		return fmt.Errorf("%d rules, %w", len(rules), err)
	}
	return errors.Join(conn.DelRule(rules[0]), conn.Flush())
}

// A data IP that nobody has configured follows the machine's address: the agent
// registers anew without a restart, and connections of others go on.
func TestDataIPFollowsTheMachine(t *testing.T) {
	c := start(t, cluster.Options{Backends: 2})
	b := c.Backends[0]
	must(t, b.StopAgent())
	file, err := b.WriteConfig()
	must(t, err)
	toml, err := os.ReadFile(file)
	must(t, err)
	found := strings.Replace(string(toml), fmt.Sprintf("data_ip = %q", b.Data), "", 1)
	must(t, os.WriteFile(file, []byte(found), 0o600))
	b.Agent, err = b.Start(filepath.Join(bin, "caplance"), "agent", "-c", file)
	must(t, err)
	must(t, c.AwaitActive(t.Context(), 2))
	must(t, b.Do(func() error { return delPrefix("eth0", netip.PrefixFrom(b.Data, 24)) }))
	must(t, b.AddAddr("eth0", netip.MustParsePrefix("10.77.0.99/24")))
	await(t, "the new data IP", func() error {
		rows, err := c.Control().Backends(t.Context())
		for _, r := range rows {
			if r.Name == b.Name && (r.Addr.String() != "10.77.0.99" || r.State.String() != "active") {
				err = fmt.Errorf("it is %v, %v", r.Addr, r.State)
			}
		}
		return err
	})
	untilNewWork(t, c, time.Now())
	must(t, b.StopAgent())
}
