package manager

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/state"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/policies"
)

var silent = slog.New(slog.DiscardHandler)

func newManager(t *testing.T, workers int) *Manager {
	t.Helper()
	m, err := New(t.Context(), Config{Store: state.New(silent), Workers: workers, Limits: host.DefaultLimits(), Log: silent})
	must(t, err)
	t.Cleanup(func() { must(t, m.Close()) })
	return m
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func service(name, policy string) *core.Service {
	return &core.Service{Name: name, VIP: netip.MustParseAddr("192.0.2.1"), Policy: policy}
}

// apply prepares and commits.
func apply(t *testing.T, m *Manager, limits host.Limits, services ...*core.Service) {
	t.Helper()
	c, err := m.Prepare(t.Context(), services, limits)
	must(t, err)
	must(t, c.Commit())
}

// shows checks what every service's policy is, as "name=policy/previous+shadow".
func shows(t *testing.T, m *Manager, want string) {
	t.Helper()
	var got []string
	for _, name := range m.names() {
		sp := m.get(name)
		s := name + "=" + sp.current.spec
		if sp.previous != nil {
			s += "/" + sp.previous.spec
		}
		if sp.shadow != nil {
			s += "+" + sp.shadow.spec
		}
		got = append(got, s)
	}
	if s := strings.Join(got, " "); s != want {
		t.Errorf("policies are %q, want %q", s, want)
	}
}

func TestChanges(t *testing.T) {
	m, limits := newManager(t, 2), host.DefaultLimits()
	a, b := service("a", "round-robin"), service("b", "round-robin")
	apply(t, m, limits, a, b)
	shows(t, m, "a=round-robin b=round-robin")
	if len(m.loaded) != 1 {
		t.Errorf("one policy was compiled %d times", len(m.loaded))
	}
	shadowed := service("a", "hash")
	shadowed.Shadow = "random"
	apply(t, m, limits, shadowed, b)
	shows(t, m, "a=hash/round-robin+random b=round-robin")
	must(t, m.Rollback(t.Context(), "a"))
	shows(t, m, "a=round-robin/hash+random b=round-robin")
	must(t, m.Shadow(t.Context(), "a", ""))
	must(t, m.Forget(func(name string) bool { return name == "b" }))
	shows(t, m, "b=round-robin")
	if m.Scheduler(0, "a") != nil || m.Scheduler(1, "b") == nil || m.Scheduler(2, "b") != nil {
		t.Error("schedulers are not those of two workers and of b")
	}
	if len(m.loaded) != 1 {
		t.Errorf("%d policies are loaded, one is used", len(m.loaded))
	}
}

// Of a change with one bad part nothing stays, whatever the part is.
func TestNothingOfABadChange(t *testing.T) {
	m, limits := newManager(t, 1), host.DefaultLimits()
	apply(t, m, limits, service("a", "round-robin"))
	badShadow, badFuel := service("b", "hash"), limits
	badShadow.Shadow = "maglev" // fills a table
	badFuel.CallFuel = 1
	for _, tt := range []struct {
		what, err string
		services  []*core.Service
		limits    host.Limits
	}{
		{"an unknown policy", `service "b"`, []*core.Service{service("a", "hash"), service("b", "nonsense")}, limits},
		{"two bad ones", "service \"b\": policy is unknown: \"nonsense\" (bundled: ", []*core.Service{service("a", "/nowhere.wasm"), service("b", "nonsense")}, limits},
		{"a shadow with a table", `shadow`, []*core.Service{service("a", "hash"), badShadow}, limits},
		{"too little fuel", `service "a"`, []*core.Service{service("a", "round-robin")}, badFuel},
	} {
		c, err := m.Prepare(t.Context(), tt.services, tt.limits)
		if err == nil {
			c.Discard()
		}
		if err == nil || !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %v", tt.what, err)
		}
		shows(t, m, "a=round-robin")
		if m.limits != limits {
			t.Errorf("%s: the limits have changed", tt.what)
		}
	}
	apply(t, m, limits, service("a", "hash"))
	shows(t, m, "a=hash/round-robin")
}

// max_module_bytes holds for files, also when it changes.
func TestModuleBytes(t *testing.T) {
	m, limits := newManager(t, 1), host.DefaultLimits()
	_, wasm, err := policies.Load("round-robin")
	must(t, err)
	file := filepath.Join(t.TempDir(), "large.wasm")
	large := append(wasm, 0, 0x81, 0x80, 0x80, 0x09, 0) // a custom section, without a name
	large = append(large, make([]byte, 9<<21)...)
	must(t, os.WriteFile(file, large, 0o600))
	if c, err := m.Prepare(t.Context(), []*core.Service{service("a", file)}, limits); err == nil || !strings.Contains(err.Error(), "max_module_bytes") && !strings.Contains(err.Error(), "too large") {
		t.Errorf("a file of %d bytes: %v", len(large), err)
		if err == nil {
			c.Discard()
		}
	}
	limits.ModuleBytes = len(large)
	apply(t, m, limits, service("a", file))
	limits.ModuleBytes = 1 << 10
	if c, err := m.Prepare(t.Context(), []*core.Service{service("a", file)}, limits); err == nil {
		c.Discard()
		t.Error("a smaller limit is not seen")
	}
	shows(t, m, "a="+file)
}

func TestGrow(t *testing.T) {
	m := newManager(t, 1)
	svc := service("a", "round-robin")
	svc.Shadow = "random"
	apply(t, m, host.DefaultLimits(), svc)
	first := m.Scheduler(0, "a")
	must(t, m.Grow(t.Context(), 3))
	if m.Scheduler(0, "a") != first || m.Scheduler(2, "a") == nil || m.Scheduler(3, "a") != nil {
		t.Error("there are not three workers' schedulers, the first as before")
	}
	pool := core.NewPoolBuilder(svc).Build([]core.Backend{{Name: "one", Addr: netip.MustParseAddr("10.0.0.1"), Weight: 1, Since: time.Unix(1, 0)}})
	s := m.Scheduler(2, "a")
	s.SetPool(pool)
	if i, by := s.Pick(&core.NewFlow{Hash: 1, Family: 4}); i != 0 {
		t.Errorf("picked %d by the %v", i, by)
	}
	must(t, m.Swap(t.Context(), "a", "hash"))
}

// A worker that comes late to a switch makes it all the same.
func TestLateWorker(t *testing.T) {
	m := newManager(t, 2)
	apply(t, m, host.DefaultLimits(), service("a", "round-robin"))
	var late func()
	m.Start(func(worker int, fn func()) error {
		if worker == 1 {
			late = fn
			return os.ErrDeadlineExceeded
		}
		fn()
		return nil
	})
	must(t, m.Swap(t.Context(), "a", "hash"))
	late()
	for w := range 2 {
		if name := m.Scheduler(w, "a").Stats().Policy; name != "hash" {
			t.Errorf("worker %d has %q", w, name)
		}
	}
}
