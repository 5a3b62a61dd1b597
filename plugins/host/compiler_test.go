package host_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/host"
)

func newCompiler(t *testing.T) (c *host.Compiler, dir string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(t.TempDir(), "compiled")
	if c, err = host.NewCompiler([]string{self, compileCommand}, dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("directory is still there: %v", err)
		}
	})
	return c, dir
}

// compiled counts the modules whose machine code waits to be loaded.
func compiled(t *testing.T, dir string) int {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// A policy that another process compiled is loaded from there, and does what it
// does.
func TestCompilerCompiles(t *testing.T) {
	c, dir := newCompiler(t)
	r, err := c.NewRuntime(t.Context(), host.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close(context.Background())
	wasm := testdata(t, "moody.wasm")
	if err := r.Warm(t.Context(), "moody", wasm); err != nil {
		t.Fatal(err)
	}
	if n := compiled(t, dir); n != 1 {
		t.Fatalf("%d modules are ready after Warm, want 1", n)
	}
	p, err := r.Compile(t.Context(), "moody", wasm)
	if err != nil {
		t.Fatal(err)
	}
	if n := compiled(t, dir); n != 0 {
		t.Errorf("%d modules are left after they were loaded", n)
	}
	s, err := p.NewScheduler(t.Context(), host.Config{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.SetPool(poolOf(5))
	if i, by := pickHash(s, answer(4)); i != 4 || by != core.ByPolicy {
		t.Errorf("pick is %d by %s, want 4 by policy", i, by)
	}
	pickHash(s, trap)
	if st := settled(s); !strings.Contains(st.LastError, "unreachable") {
		t.Errorf("a trap is %q", st.LastError)
	}
}

// What is no policy is refused as without a compiler; what the engine refuses, too.
func TestCompilerRefuses(t *testing.T) {
	c, dir := newCompiler(t)
	r, err := c.NewRuntime(t.Context(), host.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close(context.Background())
	for name, tt := range map[string]struct {
		wasm []byte
		want string
	}{
		"text": {[]byte("(module)"), "wat2wasm"}, "bomb": {bomb(4000), "too heavy"}, "flipped": {flipped(testdata(t, "modulo.wasm")), "module is invalid"},
	} {
		for what, compile := range map[string]func() error{
			"Warm":    func() error { return r.Warm(t.Context(), "mine", tt.wasm) },
			"Compile": func() error { _, err := r.Compile(t.Context(), "mine", tt.wasm); return err },
		} {
			if err := compile(); err == nil || !strings.Contains(err.Error(), `policy "mine": `) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s of %s: error is %v, want one with %q", what, name, err, tt.want)
			}
		}
	}
	if n := compiled(t, dir); n != 0 {
		t.Errorf("%d modules are left", n)
	}
}

// What gets past all checks ends when it takes too long or too much, and when
// nobody wants it any more; this process goes on.
func TestCompilerIsBounded(t *testing.T) {
	heavy := bomb(12_000) // 56 s, and 2.3 GiB
	tests := []struct {
		name      string
		cpu, data uint64
		cancel    time.Duration
		want      string
	}{
		{"time", 1, 4<<30 - 1, 0, "takes more than 1 s"},
		{"memory", 30, 200 << 20, 0, "or 200 MiB to compile"},
		{"cancelled", 30, 4<<30 - 1, 300 * time.Millisecond, "cancelled"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, dir := newCompiler(t)
			c.SetBounds(tt.cpu, tt.data)
			ctx := t.Context()
			if tt.cancel > 0 {
				var stop context.CancelFunc
				ctx, stop = context.WithTimeout(ctx, tt.cancel)
				defer stop()
			}
			began := time.Now()
			err := c.CompileRaw(ctx, heavy)
			t.Logf("%v after %v", err, time.Since(began))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want one with %q", err, tt.want)
			}
			if tt.cancel > 0 && (!errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 10*time.Second) {
				t.Errorf("error is %v after %v", err, time.Since(began))
			}
			if n := compiled(t, dir); n != 0 {
				t.Errorf("%d modules are left", n)
			}
		})
	}
}

// A compiler that is not there is an error that says so.
func TestCompilerMissing(t *testing.T) {
	c, err := host.NewCompiler([]string{"/nowhere/caplance"}, filepath.Join(t.TempDir(), "compiled"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CompileRaw(t.Context(), testdata(t, "modulo.wasm")); err == nil || !strings.Contains(err.Error(), "compiler did not run") {
		t.Errorf("error is %v", err)
	}
}
