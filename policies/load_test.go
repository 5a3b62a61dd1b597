package policies_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/policies"
)

// A path that a daemon gets by its configuration must neither block it nor fill
// its memory.
func TestLoadReadsRegularFilesOnly(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(
		unix.Mkfifo(in("fifo.wasm"), 0o600),
		os.Mkdir(in("dir.wasm"), 0o700),
		os.WriteFile(in("four"), []byte("1234"), 0o600),
		os.Symlink("four", in("link.wasm")),
		os.Symlink("fifo.wasm", in("to-fifo.wasm")),
		os.Symlink("nowhere", in("dangling.wasm")),
	); err != nil {
		t.Fatal(err)
	}
	for spec, want := range map[string]error{
		in("fifo.wasm"): policies.ErrNoFile, in("dir.wasm"): policies.ErrNoFile, "/dev/zero": policies.ErrNoFile,
		in("to-fifo.wasm"): policies.ErrNoFile, in("dangling.wasm"): os.ErrNotExist,
	} {
		if _, wasm, err := policies.Load(spec); !errors.Is(err, want) || wasm != nil {
			t.Errorf("Load(%q): %d bytes, %v, want %v", spec, len(wasm), err, want)
		}
	}
	if name, wasm, err := policies.LoadWithin(in("link.wasm"), 4); name != "link" || string(wasm) != "1234" || err != nil {
		t.Errorf("a link to a file: %q, %q, %v", name, wasm, err)
	}
	if _, _, err := policies.LoadWithin(in("four"), 3); !errors.Is(err, policies.ErrTooLarge) {
		t.Errorf("4 bytes of 3: %v", err)
	}
}

// A file's size is no proof: those of /proc are empty until they are read.
func TestLoadReadsNoMoreThanAllowed(t *testing.T) {
	if _, _, err := policies.LoadWithin("/proc/self/status", 16); !errors.Is(err, policies.ErrTooLarge) {
		t.Error(err)
	}
}
