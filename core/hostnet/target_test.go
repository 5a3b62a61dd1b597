package hostnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/core/reconcile"
	"github.com/caplance/caplance/core/reconcile/contract"
)

const sendRedirects = "net.ipv4.conf.ext0.send_redirects"

// network of the tests: ext0 (dummy, up) with 10.0.0.1/24, lo with 127.0.0.1/8
// and ::1/128, and 192.0.2.5/32 on ext0, which somebody else put there.
func setup(t *testing.T) {
	t.Helper()
	nettest.NetNS(t)
	addLink(t, "ext0")
	addAddr(t, "ext0", "10.0.0.1/24")
	addAddr(t, "ext0", "192.0.2.5/32")
}

func addLink(t *testing.T, name string) {
	t.Helper()
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "p"}
	if err := netlink.LinkAdd(v); err != nil {
		t.Fatal(err)
	}
	peer, err := netlink.LinkByName(name + "p")
	if err := errors.Join(err, netlink.LinkSetUp(v), netlink.LinkSetUp(peer)); err != nil {
		t.Fatal(err)
	}
}

func addAddr(t *testing.T, link, prefix string) {
	t.Helper()
	if err := netlink.AddrAdd(find(t, link), newAddr(netip.MustParsePrefix(prefix))); err != nil {
		t.Fatal(err)
	}
}

func find(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// footprint returns all addresses, but for link-local ones, and the sysctls.
func footprint(t *testing.T) string {
	t.Helper()
	n, err := readNetwork()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for name, l := range n.links {
		for a := range n.addrs[l.Attrs().Index] {
			if !a.IsLinkLocalUnicast() {
				out = append(out, name+" "+a.String())
			}
		}
	}
	for _, key := range []string{arpIgnore, "net.ipv4.conf.all.arp_announce", sendRedirects} {
		v, err := readSysctl(key)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, key+"="+v)
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func states() (one, two *State) {
	ext := func(p string) Addr { return Addr{"ext0", netip.MustParsePrefix(p)} }
	one = &State{
		Addrs:   []Addr{ext("192.0.2.1/32"), ext("192.0.2.2/32"), ext("192.0.2.5/32"), ext("2001:db8::1/128"), {"lo", netip.MustParsePrefix("192.0.2.3/32")}},
		Sysctls: map[string]string{arpIgnore: "1", sendRedirects: "0"},
	}
	two = &State{
		Addrs:   []Addr{ext("192.0.2.2/32"), ext("192.0.2.3/32"), ext("2001:db8::2/128")},
		Sysctls: map[string]string{arpIgnore: "2", "net/ipv4/conf/all/arp_announce": "2"},
	}
	return one, two
}

func TestContract(t *testing.T) {
	one, two := states()
	var path string
	var last *Journal
	reopen := func(t *testing.T) *Journal {
		if last != nil && last.file != nil {
			kill(last)
		}
		j, err := Adopt(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { j.Close() })
		last = j
		return j
	}
	contract.Test(t, contract.Case[State]{
		Setup:     func(t *testing.T) { setup(t); path, last = filepath.Join(t.TempDir(), "journal"), nil },
		New:       func(t *testing.T) reconcile.Target[State] { return NewTarget(reopen(t)) },
		Empty:     &State{},
		States:    []*State{one, two},
		Footprint: footprint,
		Drifts: []contract.Drift{
			{Name: "VIP deleted", Break: func(t *testing.T) {
				if err := netlink.AddrDel(find(t, "ext0"), newAddr(one.Addrs[0].Prefix)); err != nil {
					t.Fatal(err)
				}
			}},
			{Name: "link down and up", Break: func(t *testing.T) { // IPv6 addresses vanish
				l := find(t, "ext0")
				if err := errors.Join(netlink.LinkSetDown(l), netlink.LinkSetUp(l)); err != nil {
					t.Fatal(err)
				}
			}},
			{Name: "link down", Break: func(t *testing.T) {
				if err := netlink.LinkSetDown(find(t, "ext0")); err != nil {
					t.Fatal(err)
				}
			}},
			{Name: "link made anew", Break: func(t *testing.T) {
				if err := netlink.LinkDel(find(t, "ext0")); err != nil {
					t.Fatal(err)
				}
				addLink(t, "ext0")
				addAddr(t, "ext0", "10.0.0.1/24")
			}},
			{Name: "sysctl set back", Break: func(t *testing.T) {
				if err := writeSysctl(arpIgnore, "0"); err != nil {
					t.Fatal(err)
				}
			}},
		},
	})
}

// A successor keeps the addresses up all the time, and undoes at the end what
// its predecessor did.
func TestSuccessorAdopts(t *testing.T) {
	setup(t)
	ctx, path, before := t.Context(), filepath.Join(t.TempDir(), "journal"), footprint(t)
	one, two := states()
	j, err := Adopt(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := NewTarget(j).Add(ctx, nil, one); err != nil {
		t.Fatal(err)
	}
	made := footprint(t)
	kill(j)
	if j, err = Adopt(path); err != nil {
		t.Fatal(err)
	}
	if got := footprint(t); got != made || j.Adopted() != 6 {
		t.Errorf("adopted %d changes:\n%s\nwant 6:\n%s", j.Adopted(), got, made)
	}
	target := NewTarget(j)
	if err := errors.Join(target.Add(ctx, nil, two), target.Prune(ctx, nil, two), j.Close()); err != nil {
		t.Fatal(err)
	}
	if got := footprint(t); got != before {
		t.Errorf("at the end\n%s\nwant\n%s", got, before)
	}
}

// What was taken back is not adopted: it may be somebody else's by now.
func TestTakenBackIsForgotten(t *testing.T) {
	setup(t)
	ctx, path := t.Context(), filepath.Join(t.TempDir(), "journal")
	one, _ := states()
	j, err := Adopt(path)
	if err != nil {
		t.Fatal(err)
	}
	target := NewTarget(j)
	if err := errors.Join(target.Add(ctx, nil, one), target.Prune(ctx, one, &State{})); err != nil {
		t.Fatal(err)
	}
	kill(j)
	addAddr(t, "ext0", "192.0.2.1/32")
	if j, err = Adopt(path); err != nil {
		t.Fatal(err)
	}
	if j.Adopted() != 0 {
		t.Errorf("adopted %d changes", j.Adopted())
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if got := footprint(t); !strings.Contains(got, "192.0.2.1") {
		t.Errorf("somebody's address is gone:\n%s", got)
	}
}

// A sysctl that was set twice and killed in between goes back to what it was.
func TestValueOfAnEarlierLineIsOurs(t *testing.T) {
	setup(t)
	path, before := filepath.Join(t.TempDir(), "journal"), footprint(t)
	for range 2 { // the second time what the first has rewritten is read
		j, err := Adopt(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(j.SetSysctl(arpIgnore, "1"), j.write(change{Sysctl: withSlashes(arpIgnore), Old: "1", New: "2"})); err != nil {
			t.Fatal(err)
		}
		kill(j)
	}
	j, err := Adopt(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil || footprint(t) != before {
		t.Errorf("%v:\n%s\nwant\n%s", err, footprint(t), before)
	}
}

func TestRenamedLinkKeepsItsAddress(t *testing.T) {
	setup(t)
	ctx := t.Context()
	j, err := Adopt(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	target := NewTarget(j)
	old := &State{Addrs: []Addr{{"ext0", vip4}}}
	if err := target.Add(ctx, nil, old); err != nil {
		t.Fatal(err)
	}
	l := find(t, "ext0")
	if err := errors.Join(netlink.LinkSetDown(l), netlink.LinkSetName(l, "ext9"), netlink.LinkSetUp(l)); err != nil {
		t.Fatal(err)
	}
	if err := target.Verify(ctx, old); !errors.Is(err, reconcile.ErrDrift) {
		t.Errorf("Verify: %v, want drift", err)
	}
	if err := target.Add(ctx, nil, old); err == nil || !strings.Contains(err.Error(), "link ext0") {
		t.Errorf("Add: %v, want an error that names the link", err)
	}
	want := &State{Addrs: []Addr{{"ext9", vip4}}}
	if err := errors.Join(target.Add(ctx, nil, want), target.Prune(ctx, nil, want), target.Verify(ctx, want)); err != nil {
		t.Error(err)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	n, err := readNetwork()
	if err != nil || n.addrs[l.Attrs().Index][vip4.Addr()] {
		t.Errorf("the address is still there, %v", err)
	}
}

func TestManyAddresses(t *testing.T) {
	setup(t)
	j, err := Adopt(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	s := &State{}
	for i := range 1000 {
		s.Addrs = append(s.Addrs, Addr{"ext0", netip.MustParsePrefix(fmt.Sprintf("10.1.%d.%d/32", i/250, i%250))})
	}
	target := NewTarget(j)
	if err := errors.Join(target.Add(t.Context(), nil, s), target.Verify(t.Context(), s), j.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestWatchTellsOfSysctls(t *testing.T) {
	if !nettest.OwnNetNS(t) {
		return
	}
	j, err := Adopt(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	target := NewTarget(j)
	if err := target.Add(t.Context(), nil, &State{Sysctls: map[string]string{arpIgnore: "1"}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	changed, done := make(chan struct{}, 10), make(chan error)
	go func() { done <- target.Watch(ctx, func() { changed <- struct{}{} }) }()
	if err := writeSysctl(arpIgnore, "0"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	case <-time.After(slow.Time(5 * time.Second)):
		t.Error("not told of a sysctl that was set back")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// An address that somebody takes away between its addition and its route is not
// waited for: the target is tried again instead.
func TestVanishedAddressIsNotAwaited(t *testing.T) {
	nettest.NetNS(t)
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	n, err := readNetwork()
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	err = n.awaitLocal(t.Context(), []Addr{{Link: "lo", Prefix: netip.MustParsePrefix("2001:db8::1/128")}})
	if err == nil || time.Since(begin) >= localTimeout {
		t.Errorf("after %s: %v", time.Since(begin), err)
	}
}

// The journal tells which addresses are the machine's own: also after a kill, and
// while another change is under way.
func TestOurs(t *testing.T) {
	setup(t)
	path := filepath.Join(t.TempDir(), "journal")
	j, err := Adopt(path)
	if err != nil {
		t.Fatal(err)
	}
	target := NewTarget(j)
	ours, theirs := netip.MustParseAddr("192.0.2.6"), netip.MustParseAddr("192.0.2.5")
	want := &State{Addrs: []Addr{{"ext0", netip.PrefixFrom(ours, 32)}, {"ext0", netip.PrefixFrom(theirs, 32)}}}
	if err := target.Add(t.Context(), nil, want); err != nil {
		t.Fatal(err)
	}
	if err := j.Leave(); err != nil {
		t.Fatal(err)
	}
	if j, err = Adopt(path); err != nil {
		t.Fatal(err)
	}
	link := find(t, "ext0").Attrs().Index
	j.mu.Lock()
	if !j.Ours(link, ours) || j.Ours(link, theirs) || j.Ours(link+1, ours) {
		t.Errorf("ours: %v and %v, and %v elsewhere; want the first alone", j.Ours(link, ours), j.Ours(link, theirs), j.Ours(link+1, ours))
	}
	j.mu.Unlock()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if j.Ours(link, ours) {
		t.Error("an address that was taken off is still ours")
	}
}
