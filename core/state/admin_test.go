package state

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
)

// What the agent and what the operator ask hold at once, for all services or one.
func TestAdmin(t *testing.T) {
	s := newStore(t)
	update(t, s, services(service("a"), service("b")))
	show := func(snap *core.Snapshot) string {
		var out []string
		for _, name := range []string{"a", "b"} {
			p := snap.Pools.Of(snap.Services.Named(name).ID)
			for _, m := range append(p.Members, p.Out...) {
				out = append(out, fmt.Sprintf("%s %s/%s %d", name, m.State, m.Own, m.Weight))
			}
		}
		return strings.Join(out, ", ")
	}
	all, one := core.AdminKey{Backend: "x"}, core.AdminKey{Backend: "x", Service: "a"}
	for _, tt := range []struct {
		own   core.BackendState
		admin core.AdminSet
		want  string
	}{
		{core.Active, nil, "a active/active 1, b active/active 1"},
		{core.Active, core.AdminSet{{Backend: "y"}: {Paused: true}}, "a active/active 1, b active/active 1"},
		{core.Active, core.AdminSet{all: {Draining: true}}, "a draining/active 1, b draining/active 1"},
		{core.Active, core.AdminSet{one: {Draining: true}}, "a draining/active 1, b active/active 1"},
		{core.Draining, core.AdminSet{one: {Paused: true}}, "a paused/draining 1, b draining/draining 1"},
		{core.Paused, core.AdminSet{all: {Draining: true}}, "a paused/paused 1, b paused/paused 1"},
		{core.Lost, core.AdminSet{all: {Draining: true}}, "a draining/lost 1, b draining/lost 1"},
		{core.Unhealthy, core.AdminSet{all: {Weighs: true, Weight: 7}, one: {Weighs: true}}, "a unhealthy/unhealthy 0, b unhealthy/unhealthy 7"},
		{core.Paused, core.AdminSet{one: {Disabled: true}, all: {Draining: true}}, "a disabled/paused 1, b paused/paused 1"},
		{core.Active, core.AdminSet{all: {Draining: true, Drained: true}}, "a drained/active 1, b drained/active 1"},
		{core.Active, nil, "a active/active 1, b active/active 1"},
	} {
		b := backend("x")
		b.State = tt.own
		snap := update(t, s, func(d *Draft) error {
			d.SetBackends([]core.Backend{b})
			d.SetAdmin(tt.admin)
			return nil
		})
		if got := show(snap); got != tt.want {
			t.Errorf("%v, %v: %s, want %s", tt.own, tt.admin, got, tt.want)
		}
	}
}

// Orders alone rebuild the pools of their services, and no others; a backend that
// was held out comes back as a newcomer with another handle.
func TestAdminChanges(t *testing.T) {
	s := newStore(t)
	slow := service("a")
	slow.SlowStart = time.Hour
	update(t, s, services(slow, service("b")))
	first := update(t, s, backends(backend("x"), backend("y")))
	order := func(set core.AdminSet) *core.Snapshot {
		return update(t, s, func(d *Draft) error { d.SetAdmin(set); return nil })
	}
	a, b := first.Services.Named("a").ID, first.Services.Named("b").ID
	one := core.AdminKey{Backend: "x", Service: "a"}
	out := order(core.AdminSet{one: {Disabled: true}})
	if out.Pools.Of(b) != first.Pools.Of(b) {
		t.Error("another service's pool was built anew")
	}
	if p := out.Pools.Of(a); p.Eligible != 1 || len(p.Out) != 1 || p.Named("x") != nil {
		t.Errorf("%d eligible, %d out", p.Eligible, len(p.Out))
	}
	if again := order(core.AdminSet{one: {Disabled: true}}); again != out {
		t.Error("the same orders made a revision")
	}
	back := order(nil)
	m, was := back.Pools.Of(a).Named("x"), first.Pools.Of(a).Named("x")
	if m == nil || m.Handle == was.Handle || m.Ramp >= core.FullRamp || was.Ramp != core.FullRamp {
		t.Errorf("back as %+v", m)
	}
	if other := back.Pools.Of(a).Named("y"); other.Handle != first.Pools.Of(a).Named("y").Handle || other.Ramp != core.FullRamp {
		t.Errorf("the other one: %+v", other)
	}
	update(t, s, func(d *Draft) error { d.Ramp(); return nil })
	if again := s.Snapshot().Pools.Of(a).Named("x"); again.Handle != m.Handle {
		t.Error("its handle changed")
	}
}
