package host

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/caplance/caplance/core/plain"
	"github.com/tetratelabs/wazero"
)

// Compiler compiles modules of strangers in a process of its own, so that
// whatever a module makes of the engine's compiler costs a bounded time and
// memory, can be cancelled, and cannot end this process. The machine code comes
// back through wazero's cache in a directory. Its methods may be called
// concurrently; modules are compiled one at a time.
type Compiler struct {
	command []string
	dir     string
	bounds  bounds
	turn    chan struct{}

	mu    sync.Mutex
	ready map[[sha256.Size]byte]string // machine code that has not been loaded yet, by module
}

// maxReady is how many modules may lie in the directory: those of changes that came to
// nothing.
const maxReady = 128

// NewCompiler makes one. command is how to start RunCompiler; its arguments are
// appended. dir is emptied: nobody else may use it, or write to it.
func NewCompiler(command []string, dir string) (*Compiler, error) {
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return nil, fmt.Errorf("directory of compiled policies: %w", err)
	}
	return &Compiler{command: command, dir: dir, bounds: compileBounds, turn: make(chan struct{}, 1), ready: map[[sha256.Size]byte]string{}}, nil
}

// Close removes the directory. The runtimes that use it must have been closed.
func (c *Compiler) Close() error {
	if c == nil {
		return nil
	}
	if err := os.RemoveAll(c.dir); err != nil {
		return fmt.Errorf("directory of compiled policies: %w", err)
	}
	return nil
}

// NewRuntime starts an engine whose policies are compiled by c; without one, nil, they
// are compiled in this process.
func (c *Compiler) NewRuntime(ctx context.Context, l Limits) (*Runtime, error) {
	if c == nil {
		return NewRuntimeWith(ctx, l)
	}
	cache, err := wazero.NewCompilationCacheWithDir(c.dir)
	if err != nil {
		return nil, fmt.Errorf("policy runtime: %w", err)
	}
	r, err := newRuntime(ctx, l, cache)
	if err != nil {
		return nil, errors.Join(err, cache.Close(ctx))
	}
	r.compiler = c
	return r, nil
}

// compile has a metered module compiled, if it is not ready yet.
func (c *Compiler) compile(ctx context.Context, metered []byte, l *Limits) error {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return fmt.Errorf("compiling it was cancelled: %w", context.Cause(ctx))
	}
	sum := sha256.Sum256(metered)
	if c.path(sum) != "" {
		return nil
	}
	before, err := c.files()
	if err != nil {
		return err
	}
	if err := c.run(ctx, metered, l); err != nil {
		return err
	}
	after, err := c.files()
	if err != nil {
		return err
	}
	for path := range after {
		if !before[path] {
			c.keep(sum, path)
			return nil
		}
	}
	return errors.New("module was compiled, but its machine code is not there: is another caplance using the directory " + c.dir + "?")
}

func (c *Compiler) run(ctx context.Context, metered []byte, l *Limits) error {
	args := append(c.command[1:len(c.command):len(c.command)], c.dir, fmt.Sprint(l.MemoryPages), fmt.Sprint(c.bounds.cpu), fmt.Sprint(c.bounds.data))
	cmd := exec.CommandContext(ctx, c.command[0], args...)
	var said bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(metered), &said
	cmd.Env = []string{"GOMAXPROCS=1", "GOTRACEBACK=none", fmt.Sprintf("GOMEMLIMIT=%d", c.bounds.data*3/4)}
	cmd.WaitDelay = time.Second
	// It ends with this process, which the kernel takes to be the thread that
	// started it: the next process has the directory to itself.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	exit, exited := errors.AsType[*exec.ExitError](err)
	text, _, _ := strings.Cut(strings.TrimSpace(said.String()), "\n")
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("compiling it was cancelled: %w", context.Cause(ctx))
	case exited && exit.ExitCode() == exitInvalid:
		return fmt.Errorf(invalidModule, errors.New(text))
	case exited && exit.Sys().(syscall.WaitStatus).Signaled() || exited && exit.ExitCode() == exitFatal:
		return fmt.Errorf("module takes more than %d s or %d MiB to compile (%w %s): leave some of it out", c.bounds.cpu, c.bounds.data>>20, err, plain.Name(text))
	default:
		return fmt.Errorf("compiler did not run: %w %s", err, plain.Name(text))
	}
}

// files lists the machine code in the directory.
func (c *Compiler) files() (map[string]bool, error) {
	list, err := filepath.Glob(filepath.Join(c.dir, "*", "*"))
	if err != nil {
		return nil, fmt.Errorf("directory of compiled policies: %w", err)
	}
	out := map[string]bool{}
	for _, path := range list {
		if strings.HasSuffix(path, ".tmp") { // of one that was cancelled
			_ = os.Remove(path)
			continue
		}
		out[path] = true
	}
	return out, nil
}

func (c *Compiler) path(sum [sha256.Size]byte) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ready[sum]
}

func (c *Compiler) keep(sum [sha256.Size]byte, path string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.ready) == maxReady {
		for other, path := range c.ready {
			_ = os.Remove(path)
			delete(c.ready, other)
			break
		}
	}
	c.ready[sum] = path
}

// done removes what has been loaded.
func (c *Compiler) done(metered []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sum := sha256.Sum256(metered)
	if path := c.ready[sum]; path != "" {
		_ = os.Remove(path) // the next start does it
		delete(c.ready, sum)
	}
}
