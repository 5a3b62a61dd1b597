package host_test

import (
	"context"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/policies"
)

// Every limit that stops a policy says by which key it may be raised.
func TestLimitsNameTheirKeys(t *testing.T) {
	tests := []struct {
		key   string
		lower func(*host.Limits)
		hash  uint64 // of a pick, 0 for a failure before
	}{
		{"max_module_bytes", func(l *host.Limits) { l.ModuleBytes = 100 }, 0},
		{"max_memory_pages", func(l *host.Limits) { l.MemoryPages = 255 }, 0},
		{"call_fuel", func(l *host.Limits) { l.CallFuel = 1 }, 0},
		{"pick_fuel", func(*host.Limits) {}, hostileSpin},
		{"max_depth", func(*host.Limits) {}, hostileDive},
	}
	for _, tt := range tests {
		t.Run(tt.key, func(t *testing.T) {
			l := host.DefaultLimits()
			tt.lower(&l)
			got := failWith(t, l, testdata(t, "hostile.wasm"), tt.hash)
			if !strings.Contains(got, "raise "+tt.key) {
				t.Errorf("error %q does not say to raise %s", got, tt.key)
			}
		})
	}
	l := host.DefaultLimits()
	l.StartFuel = 1
	if got := failWith(t, l, testdata(t, "trap-at-start.wasm"), 0); !strings.Contains(got, "raise start_fuel") {
		t.Errorf("error %q does not say to raise start_fuel", got)
	}
}

// failWith returns the text of the failure under these limits.
func failWith(t *testing.T, l host.Limits, wasm []byte, hash uint64) string {
	t.Helper()
	ctx := context.Background()
	r, err := host.NewRuntimeWith(ctx, l)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close(ctx)
	p, err := r.Compile(ctx, "mine", wasm)
	if err != nil {
		return err.Error()
	}
	s, err := p.NewScheduler(ctx, host.Config{Workers: 1})
	if err != nil {
		return err.Error()
	}
	defer s.Close()
	s.SetPool(poolOf(5))
	pickHash(s, hash)
	return settled(s).LastError
}

func TestLimitsImpossible(t *testing.T) {
	_, err := host.NewRuntimeWith(context.Background(), host.Limits{MemoryPages: 1 << 17, PickFuel: -1})
	if err == nil {
		t.Fatal("impossible limits were accepted")
	}
	for _, key := range []string{"max_module_bytes is 0", "max_memory_pages is 131072", "max_depth is 0", "pick_fuel is -1", "call_fuel is 0", "start_fuel is 0"} {
		if !strings.Contains(err.Error(), key) {
			t.Errorf("error %q does not say that %s", err, key)
		}
	}
}

// The bundled policies stay within a quarter of the fuel at 1000 backends, and
// within all of it at 4096, the most that they take; so they do in the first
// pick after the counters were overwritten, when some build an index anew.
func TestBundledPoliciesFit(t *testing.T) {
	for _, tt := range []struct{ backends, share int64 }{{1000, 4}, {4096, 1}} {
		l := host.DefaultLimits()
		l.PickFuel /= tt.share
		l.CallFuel /= tt.share
		r, err := host.NewRuntimeWith(t.Context(), l)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close(context.Background())
		pool := poolOf(int(tt.backends))
		for _, name := range policies.Names() {
			_, wasm, err := policies.Load(name)
			if err != nil {
				t.Fatal(err)
			}
			p, err := r.Compile(t.Context(), name, wasm)
			if err != nil {
				t.Fatal(err)
			}
			s, err := p.NewScheduler(t.Context(), host.Config{Workers: 1})
			if err != nil {
				t.Fatal(err)
			}
			s.SetPool(pool)
			for k := range uint64(3000) {
				if k%1000 == 0 {
					s.Refresh(counters[uint32](tt.backends), counters[uint64](tt.backends), counters[uint64](tt.backends))
				}
				f := flowOf(k)
				s.Pick(&f)
			}
			if p.HasTable() {
				if _, err := p.BuildTable(t.Context(), host.Config{Workers: 1}, pool); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			s.Close()
			if st := s.Stats(); st.Failures > 0 {
				t.Errorf("%s with %d backends: %s", name, tt.backends, st.LastError)
			}
		}
	}
}

// counters returns them in no order.
func counters[T uint32 | uint64](n int64) []T {
	c := make([]T, n)
	for i := range c {
		c[i] = T(core.Mix(uint64(i)) >> 40)
	}
	return c
}

// A module may have as many functions as it likes, within max_module_bytes.
func TestManyFunctions(t *testing.T) {
	s := newScheduler(t, manyFunctions(10_000), host.Config{})
	s.SetPool(poolOf(5))
	f := flowOf(1)
	if i, by := s.Pick(&f); i != 0 || by != core.ByPolicy {
		t.Errorf("pick is %d by %s, want 0 by policy", i, by)
	}
}

// manyFunctions returns a policy that picks 0, with n functions that do nothing.
func manyFunctions(n int) []byte {
	section := func(id byte, body []byte) []byte {
		return append(binary.AppendUvarint([]byte{id}, uint64(len(body))), body...)
	}
	export := func(name string, kind, index byte) string {
		return string(rune(len(name))) + name + string(rune(kind)) + string(rune(index))
	}
	const zero, nothing = "\x04\x00\x41\x00\x0b", "\x02\x00\x0b" // bodies: i32.const 0, and none
	count := binary.AppendUvarint(nil, uint64(n+4))
	out := []byte("\x00asm\x01\x00\x00\x00")
	out = append(out, section(1, []byte("\x03\x60\x00\x00\x60\x02\x7f\x7f\x01\x7f\x60\x02\x7e\x7f\x01\x7f"))...)
	out = append(out, section(3, append(append(count[:len(count):len(count)], 0, 1, 1, 2), make([]byte, n)...))...)
	out = append(out, section(5, []byte{1, 0, 1})...)
	out = append(out, section(7, []byte("\x05"+export("memory", 2, 0)+export("caplance_abi_v1", 0, 0)+
		export("caplance_buffer", 0, 1)+export("caplance_backends", 0, 2)+export("caplance_pick", 0, 3)))...)
	code := append(count[:len(count):len(count)], nothing+zero+zero+zero+strings.Repeat(nothing, n)...)
	return append(out, section(10, code)...)
}
