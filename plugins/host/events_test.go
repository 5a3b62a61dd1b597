package host_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/host"
)

// The policy hears of flows that end and of the time, and its metrics are
// read with their names.
func TestEventsAndMetrics(t *testing.T) {
	s := newScheduler(t, testdata(t, "events.wasm"), host.Config{})
	pool := poolOf(3)
	s.SetPool(pool)
	for range 5 {
		s.Ended(&core.FlowEnd{Backend: pool.Members[2].Handle, Packets: 3, Bytes: 100})
	}
	s.Tick(1)
	values := func() map[string]uint64 {
		m := map[string]uint64{}
		for _, v := range s.Stats().Metrics {
			m[v.Name] = v.Value
		}
		return m
	}
	if m := values(); len(m) != 4 || m["ends"] != 5 || m["ticks"] != 1 || m["bytes"] != 500 || m["last"] != 2 {
		t.Errorf("metrics %v", m)
	}
	s.Ended(&core.FlowEnd{Backend: 4711 << 16}) // of a backend that left
	s.Tick(2)
	if m := values(); m["ends"] != 6 || int64(m["last"]) != -1 {
		t.Errorf("metrics %v", m)
	}
	e := core.FlowEnd{Backend: pool.Members[0].Handle}
	if n := testing.AllocsPerRun(1000, func() { s.Ended(&e) }); n != 0 {
		t.Errorf("%v allocations for a flow's end", n)
	}
}

// A backend with as many flows as it takes is passed over: the policy is asked
// again with a growing attempt, and in the end any other one will do.
func TestFullBackends(t *testing.T) {
	s := newScheduler(t, testdata(t, "events.wasm"), host.Config{}) // picks the attempt's number
	limited := backends(6)
	for i := range limited[:5] {
		limited[i].MaxFlows = 1
	}
	s.SetPool(core.NewPoolBuilder(service).Build(limited))
	for want := range 4 {
		f := flowOf(uint64(want))
		if i, by := s.Pick(&f); i != want || by != core.ByPolicy || f.Attempt != int32(want) {
			t.Errorf("pick is %d by %s at attempt %d, want %d", i, by, f.Attempt, want)
		}
	}
	seen := map[int]bool{}
	for n := range uint64(20) {
		f := flowOf(n)
		i, by := s.Pick(&f)
		if by != core.ByFallback || i < 4 {
			t.Errorf("pick is %d by %s, want one that is not full by fallback", i, by)
		}
		seen[i] = true
	}
	if !seen[5] {
		t.Errorf("the one without a limit got nothing: %v", seen)
	}
	for i := range limited {
		limited[i].MaxFlows = 1
	}
	s.SetPool(core.NewPoolBuilder(service).Build(limited))
	s.Refresh([]uint32{1, 1, 1, 1, 1, 1}, nil, nil)
	f := flowOf(0)
	if i, by := s.Pick(&f); i != -1 || by != core.ByNobody {
		t.Errorf("all are full, the pick is %d by %s", i, by)
	}
}

func TestTableMode(t *testing.T) {
	ctx := context.Background()
	p, err := newRuntime(t).Compile(ctx, "table", testdata(t, "table.wasm"))
	if err != nil {
		t.Fatal(err)
	}
	if !p.HasTable() {
		t.Fatal("not in table mode")
	}
	for n, want := range map[int]string{
		3: "holds 3: the eligible backends are 0 to 2",
		4: "not done after",
		5: "no slot for backend b0004",
	} {
		if _, err := p.BuildTable(ctx, host.Config{Workers: 1}, poolOf(n)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%d backends: error %v, want one with %q", n, err, want)
		}
	}
	pool := poolOf(8)
	table, err := p.BuildTable(ctx, host.Config{Workers: 1}, pool)
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.NewScheduler(ctx, host.Config{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.SetPool(pool)
	f := flowOf(7)
	if _, by := s.Pick(&f); by != core.ByFallback {
		t.Errorf("without a table the pick is by %s", by)
	}
	pool = pool.WithTable(table)
	s.SetPool(pool)
	for n := range uint64(100) {
		f := flowOf(n)
		if i, by := s.Pick(&f); i != int(f.Hash%core.LookupSize%8) || by != core.ByTable {
			t.Errorf("pick is %d by %s", i, by)
		}
	}
}

// Another policy takes over between two picks: counters stay, quarantine ends,
// what was built for the old one is thrown away.
func TestSwitch(t *testing.T) {
	ctx := context.Background()
	r := newRuntime(t)
	compile := func(name string) *host.Policy {
		p, err := r.Compile(ctx, name, testdata(t, name+".wasm"))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	moody, events := compile("moody"), compile("events")
	s, err := moody.NewScheduler(ctx, host.Config{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.SetPool(poolOf(3))
	pickHash(s, trap) // a replacement is on its way
	next, err := s.Prepare(ctx, events, host.Config{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	s.SetPool(poolOf(4)) // after it was prepared
	s.Switch(next)
	if i, by := pickHash(s, answer(2)); i != 0 || by != core.ByPolicy {
		t.Errorf("pick is %d by %s, want 0 by the new policy", i, by)
	}
	if st := s.Stats(); st.Policy != "events" || st.Quarantined || len(st.Metrics) != 4 {
		t.Errorf("stats %+v", st)
	}
	back, err := s.Prepare(ctx, moody, host.Config{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	s.Switch(back)
	if i, by := pickHash(s, answer(2)); i != 2 || by != core.ByPolicy {
		t.Errorf("pick is %d by %s, want 2 by the old policy", i, by)
	}
	unused, err := s.Prepare(ctx, events, host.Config{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	unused.Discard()
}

func TestSmoke(t *testing.T) {
	ctx := context.Background()
	r := newRuntime(t)
	for name, want := range map[string]string{
		"modulo.wasm":           "",
		"events.wasm":           "",
		"table.wasm":            "",
		"moody.wasm":            "pick answered",
		"trap-in-backends.wasm": "unreachable",
	} {
		p, err := r.Compile(ctx, name, testdata(t, name))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		err = p.Smoke(ctx, host.Config{Workers: 1}, poolOf(8))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: error %v, want one with %q", name, err, want)
		}
		t.Logf("%s: %s", name, time.Since(start))
	}
}

// A shadow is asked about every flow, and changes nothing.
func TestShadow(t *testing.T) {
	ctx := context.Background()
	s := newScheduler(t, testdata(t, "modulo.wasm"), host.Config{})
	p, err := newRuntime(t).Compile(ctx, "events", testdata(t, "events.wasm"))
	if err != nil {
		t.Fatal(err)
	}
	sh, err := p.NewScheduler(ctx, host.Config{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	s.SetPool(poolOf(4))
	if _, ok := s.Shadow(); ok {
		t.Error("a shadow before there is one")
	}
	s.SetShadow(sh)
	agree := uint64(0)
	for n := range uint64(100) {
		if n == 50 {
			s.SetPool(poolOf(4)) // counts survive
		}
		f := flowOf(n)
		i, by := s.Pick(&f)
		if i != int(f.Hash%4) || by != core.ByPolicy {
			t.Errorf("pick is %d by %s", i, by)
		}
		if i == 0 { // what events picks at the first attempt
			agree++
		}
	}
	st, ok := s.Shadow()
	if !ok || st.Policy != "events" || st.Asked != 100 || st.Agreed != agree || st.Would["b0000"] != 100 {
		t.Errorf("%+v, want %d agreed", st, agree)
	}
	f := flowOf(1)
	if n := testing.AllocsPerRun(1000, func() { s.Pick(&f) }); n != 0 {
		t.Errorf("%v allocations with a shadow", n)
	}
	if s.SetShadow(nil) != sh {
		t.Error("not the shadow that was set")
	}
	if err := sh.Close(); err != nil {
		t.Error(err)
	}
}
