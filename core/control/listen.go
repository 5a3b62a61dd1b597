package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Listen opens a unix socket for those whom access admits. A
// socket of this user's that nobody answers at is replaced; anything else at the
// path is left alone and an error.
func Listen(path string, access Access) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := removeDead(path); err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := access.apply(path); err != nil {
		l.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return l, nil
}

// removeDead removes what a killed process of this user's left at the path.
func removeDead(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("something else is there, %v (configure another path, or remove it)", info.Mode())
	}
	if uid := info.Sys().(*syscall.Stat_t).Uid; int(uid) != os.Geteuid() {
		return fmt.Errorf("socket there belongs to user %d (configure another path, or remove it)", uid)
	}
	if err := dead(path); err != nil {
		return err
	}
	return os.Remove(path)
}

// dead reports by a nil that nobody listens at a socket. Whatever else a dial
// says, a full backlog for one, does not prove it.
func dead(path string) error {
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
		return errors.New("another process answers there; stop it, or configure another path")
	}
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return fmt.Errorf("another process may be there, it does not answer: %w (stop it, or configure another path)", err)
}
