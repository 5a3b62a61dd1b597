package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/core/ruleset"
)

// repairTime is what a repair may take.
const repairTime = 2 * time.Second

// dataLink makes a link with the data IP:
//
//	eth0 10.9.0.11 ── peer0
func dataLink(t *testing.T) {
	t.Helper()
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "peer0"}))
	must(t, netlink.AddrAdd(byName(t, "eth0"), parseAddr(t, "10.9.0.11/24")))
	must(t, netlink.LinkSetUp(byName(t, "eth0")))
	must(t, netlink.LinkSetUp(byName(t, "peer0")))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func byName(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	return l
}

func parseAddr(t *testing.T, s string) *netlink.Addr {
	t.Helper()
	a, err := netlink.ParseAddr(s)
	must(t, err)
	return a
}

func sysctl(t *testing.T, key, value string) {
	t.Helper()
	must(t, os.WriteFile("/proc/sys/"+key, []byte(value), 0))
}

// programs returns how to detach each of the programs at the ingress of a link of
// this network namespace: by tcx, or as a filter.
func programs(name string) (detach []func() error, err error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return nil, err
	}
	at, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: ebpf.AttachTCXIngress})
	if err == nil {
		for _, p := range at.Programs {
			if id, ok := p.LinkID(); ok {
				detach = append(detach, func() error { return detachLink(id) })
			}
		}
		return detach, nil
	}
	list, err := netlink.FilterList(l, netlink.HANDLE_MIN_INGRESS) // a kernel before 6.6
	for _, f := range list {
		detach = append(detach, func() error { return netlink.FilterDel(f) })
	}
	return detach, err
}

func detachLink(id link.ID) error {
	l, err := link.NewFromID(id)
	if err != nil {
		return err
	}
	return errors.Join(l.Detach(), l.Close())
}

// attached returns an error unless one program is at a link.
func attached(name string) error {
	list, err := programs(name)
	if err == nil && len(list) != 1 {
		err = fmt.Errorf("%d programs are at %s", len(list), name)
	}
	return err
}

// detach takes the program off a link.
func detach(t *testing.T, name string) {
	t.Helper()
	list, err := programs(name)
	if err != nil || len(list) == 0 {
		t.Fatalf("%d programs are at %s, %v", len(list), name, err)
	}
	for _, detach := range list {
		must(t, detach())
	}
}

// clampedTo returns an error unless the clamp is whole and has this segment size
// for IPv4.
func clampedTo(mtu int) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: ruleset.ClampTable}
	rules, err := conn.GetRules(table, &nftables.Chain{Name: "output", Table: table})
	if err != nil {
		return err
	}
	want := fmt.Sprintf("MSS at most %d", ruleset.MSS(mtu, true))
	if len(rules) != 1 || !strings.Contains(string(rules[0].UserData), want) {
		return fmt.Errorf("%d rules, want %q", len(rules), want)
	}
	return nil
}

// deleteRule takes the clamp's rule away.
func deleteRule() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: ruleset.ClampTable}
	rules, err := conn.GetRules(table, &nftables.Chain{Name: "output", Table: table})
	if err != nil {
		return err
	}
	return errors.Join(conn.DelRule(rules[0]), conn.Flush())
}

// Whatever others do to a backend's machine is put right within two seconds,
// with Verify switched off: by events alone.
func TestDriftIsRepaired(t *testing.T) {
	if !nettest.OwnNetNS(t) {
		return
	}
	dataLink(t)
	b := newBalancer(t, 1337)
	cfg := b.config()
	cfg.DataIP = netip.MustParseAddr("10.9.0.11")
	a, stop := startReal(t, b, cfg)
	has := func(want ...string) func() error {
		return func() error {
			state := machineState(t)
			for _, w := range want {
				if !strings.Contains(state, w) {
					return fmt.Errorf("no %s in\n%s", w, state)
				}
			}
			return nil
		}
	}
	up := func() error {
		l, err := netlink.LinkByName(Device)
		if err == nil && l.Attrs().RawFlags&1 == 0 {
			err = errors.New("device is down")
		}
		if err == nil && strings.TrimSpace(read(t, "net/ipv4/conf/"+Device+"/rp_filter")) != "2" {
			err = errors.New("rp_filter is not 2")
		}
		return err
	}
	clamp, owned := "clamp", ruleset.CanOwn() == nil
	if owned { // then nobody can change it, and no drift is to be seen
		clamp = ""
	}
	refused := func(err error) {
		t.Helper()
		if err == nil == owned || owned && !errors.Is(err, os.ErrPermission) {
			t.Errorf("somebody changed the clamp: %v", err)
		}
	}
	for _, tt := range []struct {
		what   string
		target string // that counts it; "": a new state, no drift
		do     func()
		ok     func() error
	}{
		{"VIPs deleted", "addresses", func() {
			must(t, netlink.AddrDel(byName(t, "lo"), parseAddr(t, "192.0.2.1/32")))
			must(t, netlink.AddrDel(byName(t, "lo"), parseAddr(t, "2001:db8::1/128")))
		}, has("lo 192.0.2.1/32", "lo 2001:db8::1/128")},
		{"lo down and up", "addresses", func() {
			must(t, netlink.LinkSetDown(byName(t, "lo")))
			must(t, netlink.LinkSetUp(byName(t, "lo")))
		}, has("lo 192.0.2.1/32", "lo 2001:db8::1/128")},
		{"arp_ignore", "addresses", func() { sysctl(t, "net/ipv4/conf/all/arp_ignore", "0") }, has("arp_ignore=1")},
		{"arp_announce", "addresses", func() { sysctl(t, "net/ipv4/conf/all/arp_announce", "0") }, has("arp_announce=2")},
		{"clamp deleted", clamp, func() { refused(ruleset.RemoveClamp()) }, func() error { return clampedTo(1400) }},
		{"rule deleted", clamp, func() { refused(deleteRule()) }, func() error { return clampedTo(1400) }},
		{"device deleted", "device", func() { must(t, netlink.LinkDel(byName(t, Device))) }, up},
		{"device down", "device", func() { must(t, netlink.LinkSetDown(byName(t, Device))) }, up},
		{"device renamed", "device", func() {
			err := netlink.LinkSetName(byName(t, Device), "other0")
			if errors.Is(err, unix.EBUSY) { // before Linux 6.2 a link that is up keeps its name
				must(t, netlink.LinkSetDown(byName(t, Device)))
				err = netlink.LinkSetName(byName(t, Device), "other0")
			}
			must(t, err)
		}, up},
		{"device without address", "device", func() {
			must(t, netlink.AddrDel(byName(t, Device), parseAddr(t, "192.0.0.8/32")))
		}, has(Device + " 192.0.0.8/32")},
		{"device's sysctl", "addresses", func() { sysctl(t, "net/ipv4/conf/"+Device+"/rp_filter", "1") }, up},
		{"program detached", "receiver", func() { detach(t, "eth0") }, func() error { return attached("eth0") }},
		{"data link made again", "receiver", func() {
			before := byName(t, "eth0").Attrs().Index
			must(t, netlink.LinkDel(byName(t, "eth0")))
			dataLink(t)
			if byName(t, "eth0").Attrs().Index == before {
				t.Error("the link has its old index")
			}
		}, func() error { return attached("eth0") }},
		{"data link renamed", "", func() {
			must(t, netlink.LinkSetDown(byName(t, "eth0")))
			must(t, netlink.LinkSetName(byName(t, "eth0"), "lan0"))
			must(t, netlink.LinkSetUp(byName(t, "lan0")))
		}, func() error {
			if link := a.store.newest().link; link != "lan0" {
				return fmt.Errorf("the data link is taken to be %s", link)
			}
			return attached("lan0")
		}},
		{"program detached from the renamed link", "receiver", func() { detach(t, "lan0") }, func() error { return attached("lan0") }},
		{"smaller MTU", "", func() { must(t, netlink.LinkSetMTU(byName(t, "lo"), 1300)) }, func() error { return clampedTo(1300 - 28) }},
		{"larger MTU", "", func() { must(t, netlink.LinkSetMTU(byName(t, "lo"), 9000)) }, func() error { return clampedTo(1400) }},
	} {
		before := a.status()
		began := time.Now()
		tt.do()
		within(t, tt.what, repairTime, tt.ok)
		within(t, tt.what+" to be counted", repairTime, func() error {
			after := a.status()
			for i, s := range after.Targets {
				if s.Name == tt.target && s.Drifts == before.Targets[i].Drifts {
					return fmt.Errorf("no drift is counted in %+v", s)
				}
			}
			if !after.Healthy {
				return errors.New(after.Summary)
			}
			return nil
		})
		t.Logf("%s: repaired after %s", tt.what, time.Since(began).Round(time.Millisecond))
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func read(t *testing.T, key string) string {
	t.Helper()
	v, err := os.ReadFile("/proc/sys/" + key)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(v)
}
