package e2e

import (
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

	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/core/ruleset"
	"github.com/caplance/caplance/e2e/cluster"
)

// drift is what somebody else does to the balancer's machine.
type drift struct {
	name   string
	target string // whose drifts grow, "" if none: the state itself changes
	kernel bool   // only where flows are forwarded in the kernel
	do     func(t *testing.T, c *cluster.Cluster) error
}

var drifts = []drift{
	{"nft flush ruleset", "ruleset", false, onLB(flushRuleset)},
	{"our table deleted", "ruleset", false, onLB(ruleset.Remove)},
	{"a chain emptied", "ruleset", false, onLB(emptyChain)},
	{"IPv4 VIP deleted", "addresses", false, onLB(func() error { return delAddr("eth0", cluster.VIP4) })},
	{"IPv6 VIP deleted", "addresses", false, onLB(func() error { return delAddr("eth0", cluster.VIP6) })},
	{"link down and up", "", false, func(_ *testing.T, c *cluster.Cluster) error {
		return errors.Join(c.LB.Do(func() error { return restart("eth0") }), giveBack(c))
	}},
	{"link renamed", "", false, func(_ *testing.T, c *cluster.Cluster) error {
		return errors.Join(c.LB.Do(func() error {
			return errors.Join(onLink("eth0", netlink.LinkSetDown), rename("eth0", "lan0"), onLink("lan0", netlink.LinkSetUp))
		}), giveBackOn(c, "lan0"))
	}},
	{"link named as before", "", false, func(_ *testing.T, c *cluster.Cluster) error {
		return errors.Join(c.LB.Do(func() error {
			return errors.Join(onLink("lan0", netlink.LinkSetDown), rename("lan0", "eth0"), onLink("eth0", netlink.LinkSetUp))
		}), giveBack(c))
	}},
	{"another MTU", "", false, func(_ *testing.T, c *cluster.Cluster) error { return c.LB.SetMTU("eth0", 1480) }},
	{"MTU as before", "", false, func(_ *testing.T, c *cluster.Cluster) error { return c.LB.SetMTU("eth0", 1500) }},
	{"another MAC", "", false, onLB(func() error {
		return onLink("eth0", func(l netlink.Link) error {
			return netlink.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 0x99, 1})
		})
	})},
	{"programs detached", "fast path", true, func(_ *testing.T, c *cluster.Cluster) error { return c.LB.DetachPrograms("eth0") }},
	{"another source address", "", false, func(_ *testing.T, c *cluster.Cluster) error {
		return errors.Join(c.LB.AddAddr("eth0", netip.MustParsePrefix("10.77.0.9/24")), c.LB.Do(func() error { return sourceOf("10.77.0.0/24", "10.77.0.9") }))
	}},
	{"source address as before", "", false, onLB(func() error { return sourceOf("10.77.0.0/24", "10.77.0.1") })},
	{"default route changed", "", false, func(_ *testing.T, c *cluster.Cluster) error {
		return c.LB.Route(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("10.77.0.100"))
	}},
}

func flushRuleset() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	conn.FlushRuleset()
	return conn.Flush()
}

// emptyChain takes the rules out of a chain of the balancer's.
func emptyChain() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	chains, err := conn.ListChains()
	if err != nil || len(chains) == 0 {
		return fmt.Errorf("%d chains: %w", len(chains), err)
	}
	for _, c := range chains {
		if c.Hooknum != nil {
			conn.FlushChain(c)
			return conn.Flush()
		}
	}
	return errors.New("no chain of a hook")
}

// sourceOf sets from which address packets to a network of eth0's go.
func sourceOf(network, addr string) error {
	return onLink("eth0", func(l netlink.Link) error {
		_, dst, err := net.ParseCIDR(network)
		if err != nil {
			return err
		}
		return netlink.RouteReplace(&netlink.Route{
			LinkIndex: l.Attrs().Index, Dst: dst, Src: net.ParseIP(addr), Scope: netlink.SCOPE_LINK, Protocol: unix.RTPROT_KERNEL,
		})
	})
}

// onLB runs do on the balancer's machine.
func onLB(do func() error) func(*testing.T, *cluster.Cluster) error {
	return func(_ *testing.T, c *cluster.Cluster) error { return c.LB.Do(do) }
}

// giveBack gives the balancer its own IPv6 address again, which goes with a link
// that is down; the operator's network manager would.
func giveBack(c *cluster.Cluster) error { return giveBackOn(c, "eth0") }

func giveBackOn(c *cluster.Cluster, link string) error {
	err := c.LB.AddAddr(link, netip.MustParsePrefix("fd77::1/64"))
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// driftsOf returns how many drifts a target has repaired.
func driftsOf(t *testing.T, c *cluster.Cluster, target string) (n uint64) {
	t.Helper()
	s, err := c.Control().Status(t.Context())
	must(t, err)
	for _, row := range s.Targets {
		if row.Name == target {
			return row.Drifts
		}
	}
	t.Fatalf("no target %q: %+v", target, s.Targets)
	return 0
}

// happen does it, and reports whether it was counted as a drift. It is not, though it is
// put right, if something else has the balancer apply its state at that moment.
func (d *drift) happen(t *testing.T, c *cluster.Cluster, h *held) (counted bool) {
	t.Helper()
	before := uint64(0)
	if d.target != "" {
		before = driftsOf(t, c, d.target)
	}
	begin := time.Now()
	if err := d.do(t, c); err != nil {
		t.Fatalf("%s: %v", d.name, err)
	}
	newWorks(t, c, d.name, vips...)
	h.check(t, d.name)
	if d.target == "" {
		return true
	}
	for time.Since(begin) < slow.Time(5*time.Second) {
		if n := driftsOf(t, c, d.target); n > before+1 {
			t.Fatalf("%s: %d drifts of %s, want %d", d.name, n, d.target, before+1)
		} else if n == before+1 {
			if took := time.Since(begin); took > slow.Promise(2*time.Second) {
				t.Errorf("%s: repaired after %s", d.name, took)
			}
			return true
		}
		<-time.After(10 * time.Millisecond)
	}
	return false
}

// Whatever others do to the machine is put right: established flows go on, new
// ones work within two seconds, and status tells of it.
func TestDrift(t *testing.T) {
	c := start(t, cluster.Options{Backends: 3, Policy: "round-robin"})
	owned := c.LB.Do(ruleset.CanOwn) == nil
	h := hold(t, c, 100)
	for _, d := range drifts {
		if d.kernel && c.Type == "userspace" || d.target == "ruleset" && owned {
			continue // the latter is TestNobodyChangesOurTables'
		}
		for attempt := 0; !d.happen(t, c, h); attempt++ {
			if attempt == 2 {
				t.Fatalf("%s: %d times it was no drift of %s", d.name, attempt+1, d.target)
			}
		}
		await(t, d.name+": a healthy status", func() error {
			s, err := c.Control().Status(t.Context())
			if err == nil && !s.Healthy {
				err = errors.New(s.Summary)
			}
			return err
		})
	}
}

// From Linux 6.9 on a ruleset is flushed, deleted and emptied without a moment in
// which ours is not there: no connection is reset, though all of them talk.
func TestNobodyChangesOurTables(t *testing.T) {
	c := start(t, cluster.Options{Backends: 3, Policy: "round-robin"})
	if err := c.LB.Do(ruleset.CanOwn); err != nil {
		nettest.Unbuilt(t, err.Error())
	}
	lines := openLines(t, c, cluster.VIP4, 50)
	talking, stop := context.WithCancel(t.Context())
	var g sync.WaitGroup
	for _, l := range lines {
		g.Go(func() {
			for talking.Err() == nil {
				if err := l.ping(10 * time.Second); err != nil {
					t.Errorf("flow at %s: %v", l.backend, err)
					return
				}
			}
		})
	}
	before := driftsOf(t, c, "ruleset")
	for range 20 {
		must(t, c.LB.Do(flushRuleset))
		for _, change := range []func() error{ruleset.Remove, emptyChain} {
			if err := c.LB.Do(change); !errors.Is(err, unix.EPERM) {
				t.Errorf("somebody changed our table: %v", err)
			}
		}
		_, err := tryLine(c, cluster.VIP4, time.Second)
		must(t, err)
	}
	stop()
	g.Wait()
	if n := driftsOf(t, c, "ruleset"); n != before {
		t.Errorf("%d drifts", n-before)
	}
}

// A client link that comes later is attached to, and one that is made again.
func TestLinkMadeAgain(t *testing.T) {
	c := start(t, cluster.Options{Backends: 2, Policy: "round-robin"})
	h := hold(t, c, 40)
	must(t, c.LB.Do(func() error { return onLink("eth0", netlink.LinkDel) }))
	must(t, c.Reattach())
	newWorks(t, c, "link made again", vips...)
	h.check(t, "link made again")
	if c.Type == "userspace" {
		return
	}
	s, err := c.Control().Stats(t.Context())
	must(t, err)
	before := s.Counters["kernel_forwarded"]
	h.check(t, "once more")
	if s, err = c.Control().Stats(t.Context()); err != nil || s.Counters["kernel_forwarded"] < before+40 {
		t.Errorf("%d packets were forwarded in the kernel, %d before: %v", s.Counters["kernel_forwarded"], before, err)
	}
}

// The pins come back after their file system was unmounted: a kill afterwards
// loses no flow.
func TestFileSystemUnmounted(t *testing.T) {
	c := inTheKernel(t, cluster.Options{Backends: 2, Policy: "round-robin", Timeout: "5s"})
	h := hold(t, c, 40)
	root := c.Dir + "/lb/bpf"
	if _, err := os.Stat(root); err == nil {
		must(t, unix.Unmount(root, unix.MNT_DETACH))
	} else { // the machine's own, in which others have their pins: ours alone go
		mine, err := filepath.Glob("/sys/fs/bpf/caplance/*" + t.Name() + "*")
		if err != nil || len(mine) != 1 {
			t.Fatalf("pins in %v: %v", mine, err)
		}
		root = mine[0]
		must(t, os.RemoveAll(root))
	}
	await(t, "the pins", func() error {
		links, err := filepath.Glob(root + "/*/link_*")
		must(t, err)
		if len(links) == 0 {
			return errors.New("nothing was repaired")
		}
		return nil
	})
	c.Server.Kill()
	h.check(t, "killed")
	must(t, c.StartServer(t.Context()))
	must(t, c.AwaitActive(t.Context(), 2))
	h.check(t, "started again")
	if out := c.Server.Output(); !strings.Contains(out, "taken over") {
		await(t, "the takeover", func() error {
			if !strings.Contains(c.Server.Output(), "taken over") {
				return errors.New("not in the log")
			}
			return nil
		})
	}
}
