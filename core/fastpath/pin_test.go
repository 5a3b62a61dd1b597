package fastpath

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core/nettest"
)

// Every state directory has a name of its own that the BPF file system takes.
func TestEscape(t *testing.T) {
	nettest.Root(t)
	dir := t.TempDir()
	if err := unix.Mount("test", dir, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	seen := map[string]string{}
	for _, path := range []string{"/run/caplance", "/run/caplance-a", "/run/caplance/a", "/var/lib/lb.prod", "/var/lib/lb-prod", "/srv/10.0.0.1/.state"} {
		name := escape(path)
		if other, ok := seen[name]; ok {
			t.Errorf("%s and %s are both %s", path, other, name)
		}
		seen[name] = path
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}
