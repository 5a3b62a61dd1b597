package fastpath

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/caplance/caplance/core"
)

// served returns a pool of the service web with one backend, in a slot.
func served(s *core.Snapshot, handle core.Handle) *core.Pool {
	m := core.Member{Backend: core.Backend{Name: "b", Addr: data4, Weight: 1, KernelDecap: true}, Mode: core.ModeTunnel, MTU: mtu4, Handle: handle}
	m.Path = &core.Path{Source: lb4, Link: 1}
	p := core.NewPool(s.Services.Get(1), 1, []core.Member{m})
	return p.WithLookup(core.NewLookup(p.Candidates()))
}

// forwarded reports whether the balancer's TC program forwards a segment of the
// test's flow.
func (b *Balancer) forwards(t *testing.T) bool {
	t.Helper()
	verdict, _ := run(t, b.gen.tc, tcp4(ack, 0), nil)
	return verdict == redirect
}

// A successor finds the flows of a killed process and its program at work,
// takes both over when all backends are back, and in the end nothing is left.
func TestSuccession(t *testing.T) {
	_, index := testLink(t)
	dir, handle := t.TempDir(), core.NewHandle(5, 3)
	first := testSnapshot(core.Link{Name: "eth0", Index: index})
	first = withPool(first, served(first, handle))
	b := openIn(t, dir, first)
	k := key(client4, vip4, 6)
	establish(t, b, k, 1, handle)

	next, err := Open(Config{StateDir: dir, Settings: first.Settings}) // b was killed: it closes nothing
	if err != nil {
		t.Fatal(err)
	}
	if !next.Inherited {
		t.Fatal("nothing inherited")
	}
	missing := *testSnapshot(core.Link{Name: "eth0", Index: index})
	missing.Complete = false
	if err := next.Add(t.Context(), nil, &missing); err != nil {
		t.Fatal(err)
	}
	if f, ok := next.Find(k); !ok || !f.Established || f.Backend != handle || f.Service != 1 {
		t.Errorf("the flow is %+v", f)
	}
	if next.Attached() || next.gen != nil {
		t.Error("a predecessor's program was replaced before its backends were back")
	}
	if err := next.Add(t.Context(), &missing, first); err != nil {
		t.Fatal(err)
	}
	if !next.Attached() || !next.forwards(t) {
		t.Error("a flow is not gone on with")
	}
	if err := next.Prune(t.Context(), nil, testSnapshot(core.Link{Name: "eth0", Index: index})); err != nil {
		t.Fatal(err)
	}
	if next.forwards(t) {
		t.Error("a target that did not come back is used")
	}
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(Config{StateDir: dir, Settings: first.Settings})
	if err != nil || again.Inherited {
		t.Fatalf("after a clean end: inherited %v, %v", again.Inherited, err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// Whatever VIPs and services come, go or are numbered anew, and whatever the
// maps' sizes: what is known of a flow stays, in a running process and its
// successor.
func TestGenerationsKeepFlows(t *testing.T) {
	_, index := testLink(t)
	dir, handle := t.TempDir(), core.NewHandle(900, 1)
	first := testSnapshot(core.Link{Name: "eth0", Index: index})
	first = withPool(first, served(first, handle))
	b := openIn(t, dir, first)
	k := key(client4, vip4, 6)
	establish(t, b, k, 1, handle)

	changed := *first
	services := append([]*core.Service{{ID: 9, Name: "new", VIP: netip.MustParseAddr("192.0.2.55"), Protos: both, Ports: []core.PortRange{core.AllPorts}}}, first.Services.Get(1))
	changed.Services = core.NewServiceSet(services)
	changed.VIPs = &core.VIPSet{List: []core.VIP{{Addr: vip4.Addr(), Number: 0}, {Addr: netip.MustParseAddr("192.0.2.55"), Number: 1}}}
	settings := *first.Settings
	settings.Flows, settings.MaxBackends = 4096, 2048
	changed.Settings = &settings
	if err := b.Add(t.Context(), first, &changed); err != nil {
		t.Fatal(err)
	}
	if got := b.maps().Flows.MaxEntries(); got != 4096 {
		t.Errorf("the table has room for %d flows", got)
	}
	if f, ok := b.Find(k); !ok || f.Backend != handle || !f.Established || f.Packets != 1 {
		t.Errorf("the flow is %v %+v", ok, f)
	}
	if !b.forwards(t) {
		t.Error("the flow is not gone on with")
	}
	next, err := Open(Config{StateDir: dir, Settings: first.Settings})
	if err != nil || !next.Inherited {
		t.Fatalf("inherited %v, %v", next.Inherited, err)
	}
	if err := next.Add(t.Context(), nil, first); err != nil { // with the first sizes again
		t.Fatal(err)
	}
	if f, ok := next.Find(k); !ok || f.Backend != handle || f.Packets != 2 || !next.forwards(t) {
		t.Errorf("the successor's flow is %v %+v", ok, f)
	}
	if err := next.Close(); err != nil {
		t.Error(err)
	}
}

// What is saved beside the flows is there for a successor, whatever its size,
// and goes with them.
func TestSavedState(t *testing.T) {
	testLink(t)
	dir, snapshot := t.TempDir(), testSnapshot()
	b := openIn(t, dir, snapshot)
	if got, err := b.LoadState(); got != nil || err != nil {
		t.Errorf("%q, %v before anything was saved", got, err)
	}
	for _, size := range []int{0, 10, 5000, 100_000, 3} {
		want := payload(size)
		if err := b.SaveState(want); err != nil {
			t.Fatal(err)
		}
		next, err := Open(Config{StateDir: dir, Settings: snapshot.Settings}) // b was killed
		if err != nil {
			t.Fatal(err)
		}
		if got, err := next.LoadState(); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes of %d, %v", len(got), size, err)
		}
		if err := next.Release(); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	next := openIn(t, dir, snapshot)
	if got, err := next.LoadState(); got != nil || err != nil {
		t.Errorf("%d bytes outlived the flows: %v", len(got), err)
	}
	if err := next.Close(); err != nil {
		t.Error(err)
	}
}

// What a version with another layout of the maps left at work is replaced.
func TestAnotherLayout(t *testing.T) {
	testLink(t)
	dir, snapshot := t.TempDir(), testSnapshot()
	b := openIn(t, dir, snapshot)
	old := filepath.Join(b.pins.root, "v0")
	if err := errors.Join(os.Mkdir(old, 0o700), b.maps().Heartbeat.Pin(filepath.Join(old, "flows"))); err != nil {
		t.Fatal(err)
	}
	if b.Inherited || b.Replaced {
		t.Error("replaced before it is attached")
	}
	if err := b.Prune(t.Context(), nil, snapshot); err != nil || !b.Replaced {
		t.Errorf("replaced %v, %v", b.Replaced, err)
	}
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old one is still there: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}
