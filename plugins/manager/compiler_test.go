package manager

import (
	"context"
	"errors"
	"fmt"
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

// compileCommand makes the test's binary a compiler.
const compileCommand = "compile-policy"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == compileCommand {
		os.Exit(host.RunCompiler(context.Background(), os.Args[2:], os.Stdin, os.Stderr))
	}
	os.Exit(m.Run())
}

// withCompiler returns a manager whose policies a command compiles.
func withCompiler(t *testing.T, command ...string) *Manager {
	t.Helper()
	m, err := New(t.Context(), Config{
		Store: state.New(silent), Workers: 1, Limits: host.DefaultLimits(), Log: silent, Compiler: command, CompiledDir: filepath.Join(t.TempDir(), "compiled"),
	})
	must(t, err)
	t.Cleanup(func() { must(t, m.Close()) })
	return m
}

// policyFile returns the path of a copy of a bundled policy.
func policyFile(t *testing.T, name string) string {
	t.Helper()
	_, wasm, err := policies.Load(name)
	must(t, err)
	path := filepath.Join(t.TempDir(), name+".wasm")
	must(t, os.WriteFile(path, wasm, 0o600))
	return path
}

// Files are compiled by the compiler, at the start, in a swap and with other limits.
func TestFilesAreCompiledElsewhere(t *testing.T) {
	self, err := os.Executable()
	must(t, err)
	m, limits := withCompiler(t, self, compileCommand), host.DefaultLimits()
	hash, random := policyFile(t, "hash"), policyFile(t, "random")
	apply(t, m, limits, service("a", hash))
	must(t, m.Swap(t.Context(), "a", random))
	must(t, m.Shadow(t.Context(), "a", hash))
	shows(t, m, fmt.Sprintf("a=%s/%s+%s", random, hash, hash))
	limits.PickFuel++
	apply(t, m, limits, service("a", hash))
	shows(t, m, "a="+hash)
}

// While a policy is compiled, policies can be changed; and who asked for it may
// give it up.
func TestCompilingLocksNothing(t *testing.T) {
	begun := filepath.Join(t.TempDir(), "begun")
	m := withCompiler(t, "/bin/sh", "-c", "touch "+begun+"; exec sleep 600")
	apply(t, m, host.DefaultLimits(), service("a", "hash"))
	for name, slow := range map[string]func(ctx context.Context, file string) error{
		"swap":   func(ctx context.Context, file string) error { return m.Swap(ctx, "a", file) },
		"shadow": func(ctx context.Context, file string) error { return m.Shadow(ctx, "a", file) },
		"reload": func(ctx context.Context, file string) error {
			c, err := m.Prepare(ctx, []*core.Service{service("a", file)}, host.DefaultLimits())
			if err == nil {
				c.Discard()
			}
			return err
		},
		"reload of limits": func(ctx context.Context, file string) error {
			limits := host.DefaultLimits()
			limits.PickFuel++
			c, err := m.Prepare(ctx, []*core.Service{service("a", file)}, limits)
			if err == nil {
				c.Discard()
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			_ = os.Remove(begun)
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			ended := make(chan error, 1)
			file := policyFile(t, "random")
			go func() { ended <- slow(ctx, file) }()
			for deadline := time.Now().Add(20 * time.Second); ; {
				if _, err := os.Stat(begun); err == nil {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("compiler does not start")
				}
				time.Sleep(time.Millisecond)
			}
			changed := make(chan error, 1)
			go func() { changed <- m.Swap(t.Context(), "a", "round-robin") }()
			select {
			case err := <-changed:
				must(t, err)
			case <-time.After(20 * time.Second):
				t.Fatal("swap waits for another one's compiler")
			}
			stop()
			select {
			case err := <-ended:
				if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "cancelled") {
					t.Errorf("%s ends with %v, want that it was cancelled", name, err)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("%s cannot be cancelled", name)
			}
		})
	}
}
