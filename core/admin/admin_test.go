package admin

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/state"
)

// testbed is a Keeper with a state of two services and backend b1.
type testbed struct {
	*Keeper
	t     *testing.T
	store *state.Store
	file  string
	flows map[string]int // by service, "" for all
	live  int
	kicks []string
}

func newTestbed(t *testing.T, file string) *testbed {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	w := &testbed{t: t, store: state.New(log), file: file, flows: map[string]int{}}
	if _, err := w.store.Update("test", func(d *state.Draft) error {
		d.SetBackends([]core.Backend{{Name: "b1", Addr: netip.MustParseAddr("10.0.0.1"), Weight: 1, Since: time.Now()}})
		vip := netip.MustParseAddr("192.0.2.1")
		return d.SetServices([]*core.Service{
			{Name: "web", VIP: vip, Protos: []uint8{core.ProtoTCP}, Ports: []core.PortRange{core.AllPorts}},
			{Name: "dns", VIP: vip, Protos: []uint8{core.ProtoUDP}, Ports: []core.PortRange{core.AllPorts}},
		})
	}); err != nil {
		t.Fatal(err)
	}
	var err error
	w.Keeper, err = Open(Config{
		File: file, Store: w.store, Log: log,
		Listed:       func() []string { return []string{"b1", "web-2", "db-*"} },
		DrainTimeout: func() time.Duration { return time.Minute },
		Flows:        func(_, service string) int { return w.flows[service] },
		Live:         func(string) int { return w.live },
		CountedAt:    time.Now,
		Kick:         func(_ context.Context, b string) bool { w.kicks = append(w.kicks, b); return b == "b1" },
		Wait:         func(context.Context, uint64) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// order carries out "verb backend[@service] [for] [weight=n]".
func (w *testbed) order(line string) error {
	words := strings.Fields(line)
	o := api.AdminOrder{Verb: words[0]}
	o.Backend, o.Service, _ = strings.Cut(words[1], "@")
	for _, word := range words[2:] {
		var n uint32
		if _, err := fmt.Sscanf(word, "weight=%d", &n); err == nil {
			o.Weight = &n
		} else if d, err := time.ParseDuration(word); err == nil {
			o.For = d.Seconds()
		} else {
			o.Reason = word
		}
	}
	_, err := w.Order(w.t.Context(), o, api.Caller{UID: 1000, User: "op"})
	return err
}

// pools returns how b1 is in web and dns: "active 1, draining 5".
func (w *testbed) pools() string {
	snap := w.store.Snapshot()
	var out []string
	for _, name := range []string{"web", "dns"} {
		p := snap.Pools.Of(snap.Services.Named(name).ID)
		for _, m := range slices.Concat(p.Members, p.Out) {
			out = append(out, fmt.Sprint(m.State, " ", m.Weight))
		}
	}
	return strings.Join(out, ", ")
}

func file(t *testing.T) string { return filepath.Join(t.TempDir(), "admin.json") }

// Each kind of order is taken back by itself; one for all services takes the place
// of those for one. All of it is the same after a restart.
func TestOrders(t *testing.T) {
	w := newTestbed(t, file(t))
	for _, tt := range []struct{ order, err, want string }{
		{"drain b1", "", "draining 1, draining 1"},
		{"weight b1 weight=5", "", "draining 5, draining 5"},
		{"weight b1@dns weight=0", "", "draining 5, draining 0"},
		{"resume b1@web", "b1 has drain in every service", "draining 5, draining 0"},
		{"disable b1@web", "", "disabled 5, draining 0"},
		{"pause b1@dns", "", "disabled 5, paused 0"},
		{"resume b1", "", "disabled 5, active 0"},
		{"pause b1@web", "", "disabled 5, active 0"},
		{"enable b1@web", "", "paused 5, active 0"},
		{"weight b1@dns", "b1 has weight 5 in every service", "paused 5, active 0"},
		{"weight b1", "", "paused 1, active 1"},
		{"enable b1", "", "paused 1, active 1"},
		{"drain b1", "", "draining 1, draining 1"},
		{"disable b1", "", "disabled 1, disabled 1"},
		{"resume b1", "", "disabled 1, disabled 1"},
		{"enable b1", "", "active 1, active 1"},
		{"drain b1@mail", `service "mail" is unknown (services: web, dns)`, "active 1, active 1"},
		{"fly b1", "is unknown", "active 1, active 1"},
		{"kick b1@web", "for the session", "active 1, active 1"},
		{"resume b1 1s", "takes no time", "active 1, active 1"},
		{"drain b11", "was never seen, and no [[agent]] has that name; did you mean b1?", "active 1, active 1"},
		{"drain nobody", "was never seen, and no [[agent]] has that name", "active 1, active 1"},
		{"weight b1 weight=65536", "at most 65535", "active 1, active 1"},
		{"drain web-2", "", "active 1, active 1"}, // of the configuration, away
		{"drain db-7", "", "active 1, active 1"},  // likewise
		{"drain db", "was never seen, and no [[agent]] has that name; did you mean db-7?", "active 1, active 1"},
	} {
		err := w.order(tt.order)
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %v, want %q", tt.order, err, tt.err)
		}
		if got := w.pools(); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.order, got, tt.want)
		}
		if again := newTestbed(t, w.file); again.pools() != tt.want {
			t.Errorf("%s: %s after a restart, want %s", tt.order, again.pools(), tt.want)
		}
	}
	if w.order("kick b1") != nil || w.order("kick web-2") == nil || len(w.kicks) != 2 {
		t.Errorf("kicked %v", w.kicks)
	}
}

// Orders for a service that the configuration has dropped can be taken back.
func TestOrderForADroppedService(t *testing.T) {
	w := newTestbed(t, file(t))
	w.rows = []api.AdminRow{{Backend: "b1", Service: "gone", Verb: "pause"}}
	if err := w.order("drain b1@gone"); err == nil {
		t.Error("a new order for it is accepted")
	}
	if err := w.order("resume b1@gone"); err != nil || len(w.Rows()) != 0 {
		t.Errorf("%v, %+v", err, w.Rows())
	}
}

// An agent's line has room for some orders, and for how many there are more.
func TestToldIsBounded(t *testing.T) {
	w := newTestbed(t, file(t))
	var rows []api.AdminRow
	for i := range maxTold + 5 {
		rows = append(rows, api.AdminRow{Backend: "b1", Service: fmt.Sprint("s", i), Verb: "pause"})
	}
	w.rows = rows
	got := w.Told("b1")
	if !strings.HasPrefix(got, "pause@s0,") || !strings.HasSuffix(got, fmt.Sprintf(",pause@s%d,+5", maxTold-1)) {
		t.Error(got)
	}
}

// Orders for a time end by themselves, in the process or before the next start.
func TestFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTestbed(t, file(t))
		for _, line := range []string{"pause b1@web 10s why", "weight b1 weight=7 1h"} {
			if err := w.order(line); err != nil {
				t.Fatal(err)
			}
		}
		if rows := w.Rows(); len(rows) != 2 || rows[1].Reason != "why" || rows[1].User != "op" || rows[1].UID != 1000 || rows[1].Until == nil {
			t.Errorf("%+v", rows)
		}
		if got := w.Told("b1"); got != "weight:7,pause@web" {
			t.Errorf("told %q", got)
		}
		time.Sleep(9 * time.Second)
		w.sweep()
		if got := w.pools(); got != "paused 7, active 7" {
			t.Error(got)
		}
		time.Sleep(2 * time.Second)
		if again := newTestbed(t, w.file); again.pools() != "active 7, active 7" {
			t.Errorf("started late: %s", again.pools())
		}
		w.sweep()
		if got := w.pools(); got != "active 7, active 7" {
			t.Error(got)
		}
		if data, err := os.ReadFile(w.file); err != nil || strings.Contains(string(data), "pause") {
			t.Errorf("%v, %s", err, data)
		}
	})
}

func (w *testbed) sweep() {
	w.t.Helper()
	if err := w.Sweep(w.t.Context()); err != nil {
		w.t.Error(err)
	}
}

// A drain ends when the flows are over, of its service alone, or at its timeout,
// which a second drain does not move; a restart of the balancer is no end.
func TestDrainEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		after := func(w *testbed, d time.Duration, want string) {
			t.Helper()
			time.Sleep(d)
			w.sweep()
			if got := w.pools(); got != want {
				t.Errorf("after another %s: %s, want %s", d, got, want)
			}
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		w := newTestbed(t, file(t))
		w.flows["web"], w.flows[""], w.live = 1, 3, 9
		w.sweep() // the state is complete from here on
		must(w.order("drain b1@web"))
		after(w, 2*time.Second, "draining 1, active 1")
		w.flows["web"] = 0
		after(w, time.Millisecond, "drained 1, active 1")
		must(w.order("drain b1"))
		after(w, 2*time.Second, "draining 1, draining 1")
		w.flows[""] = 0
		after(w, time.Millisecond, "draining 1, draining 1") // its agent counts some
		after(w, 30*time.Second, "draining 1, draining 1")
		must(w.order("drain b1"))
		w = newTestbed(t, w.file)
		after(w, 0, "draining 1, draining 1")
		after(w, 4*time.Second, "draining 1, draining 1") // agents have not told yet
		after(w, time.Second, "drained 1, drained 1")
		must(w.order("resume b1"))
		w.flows[""] = 1
		must(w.order("drain b1"))
		after(w, 59*time.Second, "draining 1, draining 1")
		must(w.order("drain b1"))
		after(w, time.Second, "drained 1, drained 1")
	})
}

// What cannot be written down does not hold, and what cannot be read is no start.
func TestFile(t *testing.T) {
	w := newTestbed(t, file(t))
	w.cfg.File = filepath.Join(w.file, "none", "admin.json")
	if err := w.order("drain b1"); err == nil || !strings.Contains(err.Error(), "nothing was changed") || w.pools() != "active 1, active 1" {
		t.Errorf("%v, %s", err, w.pools())
	}
	for _, text := range []string{"{", `{"orders": [{"verb": "fly"}]}`} {
		bad := file(t)
		if err := os.WriteFile(bad, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := load(bad); err == nil || !strings.Contains(err.Error(), bad) || !strings.Contains(err.Error(), "remove it") {
			t.Error(err)
		}
	}
}
