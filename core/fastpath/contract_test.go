package fastpath

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/core/reconcile"
	"github.com/caplance/caplance/core/reconcile/contract"
)

func bridge(t *testing.T, name string) core.Link {
	l := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
	if err := netlink.LinkAdd(l); err != nil {
		t.Fatal(err)
	}
	return core.Link{Name: name, Index: l.Attrs().Index}
}

// attachedTo returns how many programs there are at a link's ingress, and what
// detaches the first.
func attachedTo(t *testing.T, l core.Link) (n int, detach func() error) {
	if at, err := link.QueryPrograms(link.QueryOptions{Target: l.Index, Attach: ebpf.AttachTCXIngress}); err == nil {
		return len(at.Programs), func() error {
			id, _ := at.Programs[0].LinkID()
			l, err := link.NewFromID(id)
			if err != nil {
				return err
			}
			defer l.Close()
			return l.Detach()
		}
	}
	list := filters(t, l.Name) // before Linux 6.6
	return len(list), func() error { return netlink.FilterDel(list[0]) }
}

func TestContract(t *testing.T) {
	var dir string
	var one, two core.Link
	state := func(pools int, links ...*core.Link) *core.Snapshot {
		s := testSnapshot()
		if pools > 0 {
			s = withPool(s, served(s, core.NewHandle(uint32(pools), 7)))
		}
		for _, l := range links {
			s.Links.List = append(s.Links.List, *l)
		}
		return s
	}
	// Indices of links are the same in every namespace that Setup makes.
	one, two = core.Link{Name: "one", Index: 2}, core.Link{Name: "two", Index: 3}
	contract.Test(t, contract.Case[core.Snapshot]{
		Setup: func(t *testing.T) {
			nettest.NetNS(t)
			if got := [2]core.Link{bridge(t, "one"), bridge(t, "two")}; got != [2]core.Link{one, two} {
				t.Fatalf("links are %v", got)
			}
			dir = t.TempDir()
			t.Cleanup(func() {
				if err := Unload(dir); err != nil {
					t.Error(err)
				}
			})
		},
		New: func(t *testing.T) reconcile.Target[core.Snapshot] {
			b, err := Open(Config{StateDir: dir, Settings: testSnapshot().Settings})
			if err != nil {
				t.Fatal(err)
			}
			return b
		},
		Empty:  state(0),
		States: []*core.Snapshot{state(1, &one), state(2, &one, &two), state(3, &two)},
		Footprint: func(t *testing.T) string {
			var out strings.Builder
			for _, l := range []core.Link{one, two} {
				n, _ := attachedTo(t, l)
				fmt.Fprintf(&out, "%s: %d programs\n", l.Name, n)
			}
			pins, err := filepath.Glob(filepath.Join(systemFS, "caplance", escape(dir), layout, "targets"))
			own, err2 := filepath.Glob(filepath.Join(dir, "bpf", layout, "targets"))
			if err != nil || err2 != nil {
				t.Fatal(err, err2)
			}
			for _, pin := range append(pins, own...) {
				m, err := ebpf.LoadPinnedMap(pin, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				for slot := range uint32(8) {
					var v balanceTarget
					if err := m.Lookup(slot, &v); err != nil {
						t.Fatal(err)
					}
					if v.Handle != 0 {
						fmt.Fprintf(&out, "target %+v\n", v)
					}
				}
			}
			return out.String()
		},
		Drifts: []contract.Drift{
			{Name: "program detached", Break: func(t *testing.T) {
				_, detach := attachedTo(t, one)
				if err := detach(); err != nil {
					t.Fatal(err)
				}
			}},
			{Name: "file system unmounted", Break: func(t *testing.T) {
				root := filepath.Join(dir, "bpf")
				if !isBPF(root) {
					root = filepath.Join(systemFS, "caplance", escape(dir))
				}
				losePins(t, root)
			}},
		},
	})
}
