package hostnet

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"github.com/caplance/caplance/core/nettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const arpIgnore = "net.ipv4.conf.all.arp_ignore"

var (
	vip4 = netip.MustParsePrefix("192.0.2.1/32")
	vip6 = netip.MustParsePrefix("2001:db8::1/128")
)

// machine returns what the tests compare before and after.
func machine(t *testing.T) string {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := netlink.AddrList(lo, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, a := range addrs {
		out = append(out, a.IPNet.String())
	}
	v, err := readSysctl(arpIgnore)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(append(out, arpIgnore+"="+v), " ")
}

func open(t *testing.T, path string) *Journal {
	t.Helper()
	j, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func change3(t *testing.T, j *Journal) {
	t.Helper()
	for range 2 { // the second time nothing is left to do
		if err := errors.Join(j.AddAddr("lo", vip4), j.AddAddr("lo", vip6), j.SetSysctl(arpIgnore, "1")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCloseRestores(t *testing.T) {
	nettest.NetNS(t)
	path := filepath.Join(t.TempDir(), "run", "journal")
	before := machine(t)
	j := open(t, path)
	change3(t, j)
	want := "127.0.0.1/8 192.0.2.1/32 2001:db8::1/128 ::1/128 " + arpIgnore + "=1"
	if got := machine(t); got != want {
		t.Errorf("changed: %s, want %s", got, want)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	if got := machine(t); got != before {
		t.Errorf("after Close: %s, want %s", got, before)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("journal is still there: %v", err)
	}
	if err := j.AddAddr("lo", vip4); !errors.Is(err, os.ErrClosed) {
		t.Errorf("AddAddr after Close: %v", err)
	}
}

func TestForeignStateStays(t *testing.T) {
	nettest.NetNS(t)
	lo, _ := netlink.LinkByName("lo")
	if err := errors.Join(netlink.AddrAdd(lo, newAddr(vip4)), writeSysctl(arpIgnore, "2")); err != nil {
		t.Fatal(err)
	}
	before := machine(t)
	j := open(t, filepath.Join(t.TempDir(), "journal"))
	if err := errors.Join(j.AddAddr("lo", vip4), j.SetSysctl(arpIgnore, "1"), writeSysctl(arpIgnore, "2")); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	if got := machine(t); got != before {
		t.Errorf("after Close: %s, want %s", got, before)
	}
}

func TestRemoveAddr(t *testing.T) {
	nettest.NetNS(t)
	before := machine(t)
	j := open(t, filepath.Join(t.TempDir(), "journal"))
	own := netip.MustParsePrefix("127.0.0.1/8")
	if err := errors.Join(j.AddAddr("lo", vip4), j.AddAddr("lo", own), j.RemoveAddr("lo", vip4), j.RemoveAddr("lo", own)); err != nil {
		t.Fatal(err)
	}
	if got := machine(t); got != before {
		t.Errorf("after RemoveAddr: %s, want %s", got, before)
	}
}

func TestErrorsNameTheThing(t *testing.T) {
	nettest.NetNS(t)
	j := open(t, filepath.Join(t.TempDir(), "journal"))
	for want, err := range map[string]error{
		"link eth9":       j.AddAddr("eth9", vip4),
		"sysctl net.none": j.SetSysctl("net.none", "1"),
		"not a parameter": j.SetSysctl("../kernel/x", "1"),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}
