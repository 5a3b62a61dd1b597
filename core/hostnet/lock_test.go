package hostnet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caplance/caplance/core/nettest"
)

func take(t *testing.T, role Role, dir string) *Lock {
	t.Helper()
	l, err := TakeLock(role, dir)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLock(t *testing.T) {
	nettest.NetNS(t)
	dir, other := t.TempDir(), t.TempDir()
	server := take(t, Server, dir)
	agent := take(t, Agent, dir)
	_, err := TakeLock(Server, other)
	if !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), fmt.Sprintf("process %d, hostnet.test", os.Getpid())) {
		t.Errorf("second server in another directory: %v", err)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	server = take(t, Server, dir)
	if err := errors.Join(server.Close(), agent.Close()); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(dir + "/*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestLockOfTheDirectoryIsSeenFromOtherNamespaces(t *testing.T) {
	dir := t.TempDir()
	t.Run("here", func(t *testing.T) {
		nettest.NetNS(t)
		l := take(t, Server, dir)
		defer l.Close()
		t.Run("there", func(t *testing.T) {
			nettest.NetNS(t)
			_, err := TakeLock(Server, dir)
			if !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), dir) {
				t.Errorf("second server with the same directory: %v", err)
			}
			take(t, Server, t.TempDir()).Close() // the name was let go of
		})
	})
}

// Others must not be able to exchange what root does.
func TestInsecureDirectoriesAreRefused(t *testing.T) {
	nettest.Root(t)
	for name, spoil := range map[string]func(dir string) error{
		"others": func(dir string) error { return os.Chmod(dir, 0o757) },
		"group":  func(dir string) error { return os.Chmod(dir, 0o775) },
		"owner":  func(dir string) error { return os.Chown(dir, 65534, 65534) },
	} {
		dir := t.TempDir()
		if err := spoil(dir); err != nil {
			t.Fatal(err)
		}
		for what, open := range map[string]func() error{
			"journal": func() error { _, err := Adopt(filepath.Join(dir, "journal")); return err },
			"lock":    func() error { _, err := TakeLock(Server, dir); return err },
		} {
			if err := open(); err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "state_dir") {
				t.Errorf("%s, %s: %v, want an error that names the directory and the remedy", name, what, err)
			}
		}
	}
}

func TestInsecureJournalsAreRefused(t *testing.T) {
	nettest.Root(t)
	for name, spoil := range map[string]func(path string) error{
		"a symbolic link": func(path string) error { return os.Symlink("/etc/passwd", path) },
		"a directory":     func(path string) error { return os.Mkdir(path, 0o700) },
		"another owner": func(path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o600), os.Chown(path, 65534, 65534))
		},
	} {
		path := filepath.Join(t.TempDir(), "journal")
		if err := spoil(path); err != nil {
			t.Fatal(err)
		}
		if j, err := Adopt(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, %v", name, j, err)
		}
	}
}

func TestForgedSysctlsAreRefused(t *testing.T) {
	nettest.NetNS(t)
	here, err := currentOrigin()
	if err != nil {
		t.Fatal(err)
	}
	head := fmt.Sprintf(`{"boot":%q,"netns":%d}`+"\n", here.Boot, here.NetNS)
	for _, line := range []string{
		`{"sysctl":"kernel/core_pattern","old":"|/tmp/x","new":"core"}`,
		`{"sysctl":"net/ipv4/ip_forward","old":"1","new":"0"}`,
		`{"sysctl":"net/ipv4/conf/../conf/arp_ignore","old":"1","new":"0"}`,
		`{"sysctl":"net/ipv4/conf/all/arp_ignore","old":"x","new":"0"}`,
	} {
		path := filepath.Join(t.TempDir(), "journal")
		if err := os.WriteFile(path, []byte(head+line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Adopt(path); err == nil || !strings.Contains(err.Error(), "line 2: sysctl") {
			t.Errorf("%s: %v", line, err)
		}
	}
}
