package fastpath

import (
	"errors"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/reconcile"
)

// filters returns those at a link's ingress.
func filters(t *testing.T, name string) []netlink.Filter {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	list, err := netlink.FilterList(l, netlink.HANDLE_MIN_INGRESS)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// Kernels before 6.6 have no tcx: the program is a filter there, which a
// successor replaces, and which Close and Unload remove.
func TestFilter(t *testing.T) {
	name, index := testLink(t)
	snapshot := testSnapshot()
	b := open(t, snapshot)
	first, err := attachFilter(index, b.gen.tc, balanceHandle)
	if err != nil {
		t.Fatal(err)
	}
	second, err := attachFilter(index, b.gen.tc, balanceHandle) // a successor's, after a kill
	if err != nil {
		t.Fatal(err)
	}
	list := filters(t, name)
	if len(list) != 1 || list[0].Type() != "bpf" {
		t.Fatalf("%d filters: %v", len(list), list)
	}
	if err := first.release(); err != nil || len(filters(t, name)) != 1 {
		t.Errorf("a filter that is to stay: %v", err)
	}
	if err := second.detach(); err != nil || len(filters(t, name)) != 0 {
		t.Errorf("%d filters are left: %v", len(filters(t, name)), err)
	}
	last, err := attachFilter(index, b.gen.tc, balanceHandle)
	if err != nil {
		t.Fatal(err)
	}
	other := open(t, testSnapshot())
	if f := filters(t, name)[0].(*netlink.BpfFilter); !uses(f, b.maps().Flows) || uses(f, other.maps().Flows) {
		t.Error("it is not seen whose filter this is")
	}
	if err := b.Prune(t.Context(), nil, snapshot); err != nil || len(filters(t, name)) != 0 {
		t.Errorf("%d filters are left on a link that is not wanted: %v", len(filters(t, name)), err)
	}
	if err := last.update(b.gen.tc); err != nil {
		t.Fatal(err)
	}
	if err := dropFilters(b.maps().Flows); err != nil || len(filters(t, name)) != 0 {
		t.Errorf("%d filters are left of a killed process: %v", len(filters(t, name)), err)
	}
}

// Others' filters are left alone, and end no packet's way before ours has seen it.
func TestFilterBesideOthers(t *testing.T) {
	name, index := testLink(t)
	b := open(t, testSnapshot())
	others, err := attachFilter(index, b.gen.bare, receiveHandle) // stands for anybody's
	if err != nil {
		t.Fatal(err)
	}
	f, err := attachFilter(index, b.gen.tc, balanceHandle)
	if err != nil {
		t.Fatal(err)
	}
	if list := filters(t, name); len(list) != 2 || !isOurs(list[0], balanceHandle) {
		t.Fatalf("ours is not the first of %v", list)
	}
	if !f.intact() || !others.intact() {
		t.Error("one is not seen beside the other")
	}
	// Somebody puts a program of his own in the place of ours.
	foreign := *f
	if err := foreign.update(b.gen.bare); err != nil {
		t.Fatal(err)
	}
	if f.intact() {
		t.Error("another program with our handle is taken for ours")
	}
	if err := f.update(b.gen.tc); err != nil || !f.intact() || len(filters(t, name)) != 2 {
		t.Errorf("after the repair: intact %v, %v", f.intact(), err)
	}
	if err := f.detach(); err != nil || !others.intact() {
		t.Errorf("detached: the other is intact %v, %v", others.intact(), err)
	}
	if err := others.detach(); err != nil {
		t.Error(err)
	}
}

func TestPriority(t *testing.T) {
	bpf := func(priority uint16, handle uint32) netlink.Filter {
		return &netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{Priority: priority, Handle: handle, Protocol: unix.ETH_P_ALL}}
	}
	ip := &netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{Priority: 1, Protocol: unix.ETH_P_IP}}
	u32 := func(priority uint16) netlink.Filter {
		return &netlink.U32{FilterAttrs: netlink.FilterAttrs{Priority: priority, Protocol: unix.ETH_P_ALL}}
	}
	for name, tt := range map[string]struct {
		list []netlink.Filter
		want uint16
	}{
		"none":                       {nil, 1},
		"programs at the first":      {[]netlink.Filter{bpf(1, 1), bpf(1, 2)}, 1},
		"others with priority unset": {[]netlink.Filter{u32(0xc000)}, 1},
		"another kind at the first":  {[]netlink.Filter{u32(1), u32(2), bpf(3, 1)}, 3},
		"another protocol":           {[]netlink.Filter{ip, u32(4)}, 2},
		"ours is there":              {[]netlink.Filter{u32(1), bpf(7, balanceHandle)}, 7},
		"the agent's is there":       {[]netlink.Filter{bpf(7, receiveHandle)}, 1},
	} {
		if got := priority(tt.list, balanceHandle); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
}

// A clsact qdisc that somebody deletes is a drift, which Add repairs.
func TestQdiscDeleted(t *testing.T) {
	_, index := testLink(t)
	one := core.Link{Name: "eth0", Index: index}
	b := open(t, testSnapshot())
	f, err := attachFilter(index, b.gen.tc, balanceHandle)
	if err != nil {
		t.Fatal(err)
	}
	b.hooks[hookKey{index, false}] = f
	want := testSnapshot(one)
	if err := b.Verify(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if err := netlink.QdiscDel(&netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}); err != nil {
		t.Fatal(err)
	}
	if err := b.Verify(t.Context(), want); !errors.Is(err, reconcile.ErrDrift) {
		t.Fatalf("the qdisc is gone: %v", err)
	}
	if err := b.Add(t.Context(), nil, want); err != nil {
		t.Fatal(err)
	}
	if err := b.Verify(t.Context(), want); err != nil {
		t.Errorf("after the repair: %v", err)
	}
}

// losePins unmounts a balancer's BPF file system, or takes its directory out of the
// machine's, in which others have their pins.
func losePins(t *testing.T, root string) {
	t.Helper()
	err := unix.Unmount(root, unix.MNT_DETACH)
	if errors.Is(err, unix.EINVAL) { // no mount
		err = os.RemoveAll(root)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A file system with pins that is unmounted before the programs are attached
// comes back with them.
func TestUnmountedBeforeAttached(t *testing.T) {
	_, index := testLink(t)
	want := testSnapshot(core.Link{Name: "eth0", Index: index})
	b, err := Open(Config{StateDir: t.TempDir(), Settings: want.Settings})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	losePins(t, b.pins.root)
	if err := b.Add(t.Context(), nil, want); err != nil {
		t.Fatal(err)
	}
	if err := b.Verify(t.Context(), want); err != nil {
		t.Error(err)
	}
}
