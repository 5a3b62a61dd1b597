package fastpath

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/caplance/caplance/core/nettest"
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// receivers returns how many programs of agents are at a link's ingress.
func receivers(t *testing.T, name string) (n int) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	if featureTCX.Have() == nil {
		q, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: ebpf.AttachTCXIngress})
		if err != nil {
			t.Fatal(err)
		}
		n = len(q.Programs)
	}
	for _, f := range filters(t, name) {
		if isOurs(f, receiveHandle) {
			n++
		}
	}
	return n
}

func openTestReceiver(t *testing.T, name, dir string) *Receiver {
	t.Helper()
	r, err := OpenReceiver(name, port, dir)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Lasting() {
		t.Fatal("the program ends with the process")
	}
	return r
}

func takes(t *testing.T, r *Receiver, in []byte) bool {
	t.Helper()
	_, out := run(t, r.objs.Receive, in, nil)
	return !bytes.Equal(in, out)
}

// A released program stays at its link, and a successor's takes what it took until
// it is told otherwise; Close leaves nothing.
func TestReceiverSuccession(t *testing.T) {
	name, _ := testLink(t)
	dir := t.TempDir()
	first := openTestReceiver(t, name, dir)
	if err := first.Accept([]netip.Addr{vip4.Addr(), vip6.Addr()}, []netip.Addr{lb4}); err != nil {
		t.Fatal(err)
	}
	if err := first.Release(); err != nil {
		t.Fatal(err)
	}
	if n := receivers(t, name); n != 1 {
		t.Fatalf("%d programs are left at the link", n)
	}
	second := openTestReceiver(t, name, dir)
	if n := receivers(t, name); n != 1 {
		t.Errorf("%d programs at the link", n)
	}
	if !takes(t, second, in4(tcp4(ack, 9))) || !takes(t, second, in4(tcp6(ack, 9))) {
		t.Error("the successor does not take what its predecessor took")
	}
	if err := second.AcceptOnly([]netip.Addr{vip6.Addr()}, []netip.Addr{lb4}); err != nil {
		t.Fatal(err)
	}
	if takes(t, second, in4(tcp4(ack, 9))) || !takes(t, second, in4(tcp6(ack, 9))) {
		t.Error("it does not take what it was told")
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, name, dir)
}

func nothingLeft(t *testing.T, name, dir string) {
	t.Helper()
	if n := receivers(t, name); n != 0 {
		t.Errorf("%d programs are left at the link", n)
	}
	for _, p := range agentPins.found(dir) {
		if _, err := os.Stat(p.root); err == nil {
			t.Errorf("%s is left", p.root)
		}
	}
}

// What an agent left is removed without another one, too.
func TestUnloadReceiver(t *testing.T) {
	name, _ := testLink(t)
	dir := t.TempDir()
	if err := openTestReceiver(t, name, dir).Release(); err != nil {
		t.Fatal(err)
	}
	if err := UnloadReceiver(dir, name); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, name, dir)
}

// One that took the place of another, at a link with another name by now, is not
// disturbed by its end.
func TestReceiverGivesWay(t *testing.T) {
	name, index := testLink(t)
	dir := t.TempDir()
	first := openTestReceiver(t, name, dir)
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetName(l, "renamed"); err != nil {
		t.Fatal(err)
	}
	second := openTestReceiver(t, "renamed", dir)
	if err := first.GiveWay(second); err != nil {
		t.Fatal(err)
	}
	if !second.Attached() || receivers(t, "renamed") != 1 {
		t.Errorf("attached: %v, %d programs", second.Attached(), receivers(t, "renamed"))
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, "renamed", dir)
}

// A pin that somebody takes away is put back.
func TestReceiverIsPinnedAgain(t *testing.T) {
	name, index := testLink(t)
	r := openTestReceiver(t, name, t.TempDir())
	defer r.Close()
	if featureTCX.Have() != nil {
		nettest.Unbuilt(t, "tcx (Linux 6.6)")
	}
	if r.pins == nil {
		t.Fatal("nothing is pinned")
	}
	if err := os.RemoveAll(r.pins.dir()); err != nil {
		t.Fatal(err)
	}
	if r.Attached() {
		t.Fatal("that its pin is gone is not seen")
	}
	if err := r.Attach(); err != nil || !r.Attached() {
		t.Errorf("not put back: %v", err)
	}
	if _, err := os.Stat(filepath.Join(r.pins.dir(), filepath.Base(r.pin(index)))); err != nil {
		t.Error(err)
	}
}
