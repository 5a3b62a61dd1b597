package topology

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namesDir is where network namespaces have their names, as ip-netns(8) has it.
const namesDir = "/run/netns"

// shareNames makes the directory of names a shared mount, as ip netns add does:
// bound to itself where it is none yet. Names are mounts in it; were it no mount
// yet, the next ip netns add would bind it, and hide the names that are there
// beneath the copy, where nobody could remove them any more.
func shareNames() error {
	if err := os.MkdirAll(namesDir, 0o755); err != nil {
		return err
	}
	lock, err := os.Open(namesDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil { // iproute2 holds it for the same
		return fmt.Errorf("lock of %s: %w", namesDir, err)
	}
	err = unix.Mount("", namesDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if !errors.Is(err, unix.EINVAL) { // no mount point
		return os.NewSyscallError("mount --make-shared "+namesDir, err)
	}
	if err := unix.Mount(namesDir, namesDir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount --bind %s: %w", namesDir, err)
	}
	return os.NewSyscallError("mount --make-shared "+namesDir, unix.Mount("", namesDir, "none", unix.MS_SHARED|unix.MS_REC, ""))
}

// newPrefix returns what the names of a network's namespaces start with: the
// process tells whether it is still needed, the number that it never was there
// before.
func newPrefix(prefix string) string {
	return fmt.Sprintf("%s%d-%08x", prefix, os.Getpid(), rand.Uint32())
}

// reclaim removes the namespaces of networks whose process is gone. Those that
// cannot be removed are in nobody's way.
func reclaim(prefix string) (left []error) {
	names, _ := filepath.Glob(filepath.Join(namesDir, prefix+"*-*")) // the pattern is right
	for _, n := range names {
		name := filepath.Base(n)
		var pid int
		if _, err := fmt.Sscanf(strings.TrimPrefix(name, prefix), "%d-", &pid); err != nil || unix.Kill(pid, 0) != unix.ESRCH {
			continue
		}
		if err := removeName(name); err != nil {
			left = append(left, fmt.Errorf("netns %s of a killed process stays: %w", name, err))
		}
	}
	return left
}

// newNamed makes a namespace with a name; the calling thread stays where it is.
func newNamed(name string) (ns netns.NsHandle, err error) {
	before, err := netns.Get()
	if err != nil {
		return netns.None(), fmt.Errorf("current netns: %w", err)
	}
	defer before.Close()
	ns, err = netns.NewNamed(name)
	if back := netns.Set(before); back != nil {
		panic(fmt.Sprintf("return from netns %s: %v", name, back)) // the thread is lost
	}
	switch {
	case errors.Is(err, unix.EEXIST): // somebody else's
		return netns.None(), fmt.Errorf("netns %s: %w", name, err)
	case err != nil:
		return netns.None(), errors.Join(fmt.Errorf("netns %s: %w", name, err), removeName(name))
	}
	return ns, nil
}

// removeName takes a name away, and with it the namespace unless a process is in
// it. A name that is gone already is as good.
func removeName(name string) error {
	path := filepath.Join(namesDir, name)
	for { // mounts may lie on each other
		err := unix.Unmount(path, unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return fmt.Errorf("umount %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
