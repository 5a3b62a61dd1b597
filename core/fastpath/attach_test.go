package fastpath

import (
	"testing"

	"github.com/vishvananda/netlink"
)

// filters are those at a link's ingress.
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
	b := open(t, testConfig(t, name))
	first, err := attachFilter(index, b.objs.TC)
	if err != nil {
		t.Fatal(err)
	}
	second, err := attachFilter(index, b.objs.TC) // a successor's, after a kill
	if err != nil {
		t.Fatal(err)
	}
	list := filters(t, name)
	if len(list) != 1 || list[0].Type() != "bpf" {
		t.Fatalf("%d filters: %v", len(list), list)
	}
	first.stay = true
	if err := first.Close(); err != nil || len(filters(t, name)) != 1 {
		t.Errorf("a filter that is to stay: %v", err)
	}
	if err := second.Close(); err != nil || len(filters(t, name)) != 0 {
		t.Errorf("%d filters are left: %v", len(filters(t, name)), err)
	}
	if _, err := attachFilter(index, b.objs.TC); err != nil {
		t.Fatal(err)
	}
	if err := dropFilters(); err != nil || len(filters(t, name)) != 0 {
		t.Errorf("%d filters are left of a killed process: %v", len(filters(t, name)), err)
	}
}
