package topology

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Mounts is a mount namespace for programs of hosts. What is mounted in it, no
// other test sees.
type Mounts struct{ ns *os.File }

// NewMounts returns one with what is mounted here.
func NewMounts() (*Mounts, error) {
	m := &Mounts{}
	return m, onThread(func() (err error) {
		if err := errors.Join(unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")); err != nil {
			return fmt.Errorf("mount namespace: %w", err)
		}
		m.ns, err = os.Open("/proc/thread-self/ns/mnt")
		return err
	})
}

// Mount mounts a file system without a device in it.
func (m *Mounts) Mount(kind, at, options string) error {
	return onThread(func() error { return errors.Join(m.enter(), unix.Mount(kind, at, kind, 0, options)) })
}

// enter moves the calling thread, which must not be used for anything else any
// more.
func (m *Mounts) enter() error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("mount namespace: %w", err)
	}
	if err := unix.Setns(int(m.ns.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("mount namespace: %w", err)
	}
	return nil
}

// Close lets the namespace end with its last program.
func (m *Mounts) Close() error { return m.ns.Close() }

// onThread runs f in a thread of its own, which ends with it.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- f()
	}()
	return <-done
}
