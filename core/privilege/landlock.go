package privilege

import (
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Rights of landlock(7) that matter for a single file; the others are about what is
// in a directory.
const ofFiles = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_READ_FILE |
	unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV

// reading is what may be done with what may be read.
const reading = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR

// ErrNoLandlock is what Restrict returns where the kernel has no Landlock.
var ErrNoLandlock = errors.New("this kernel has no Landlock (5.13 with CONFIG_SECURITY_LANDLOCK, and landlock in its list of LSMs)")

// restricted reports whether Restrict was successful.
var restricted atomic.Bool

// Restrict confines all threads and children to some directories and files, for
// good: read may be read and executed, write may be changed as well, in sockets Unix
// sockets come and go. Those that are not there are left out. It mounts and unmounts nothing from then on. It needs no_new_privs
// or CAP_SYS_ADMIN.
func Restrict(read, write, sockets []string) error {
	all, err := handled()
	if err != nil {
		return err
	}
	attr := unix.LandlockRulesetAttr{Access_fs: all}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr.Access_fs), 0)
	if errno != 0 {
		return fmt.Errorf("landlock: rules: %w", errno)
	}
	defer unix.Close(int(fd))
	for _, part := range []struct {
		paths  []string
		rights uint64
	}{{read, all & reading}, {write, all}, {sockets, unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE}} {
		for _, p := range part.paths {
			if err := allow(int(fd), p, part.rights); err != nil {
				return fmt.Errorf("landlock: %s: %w", p, err)
			}
		}
	}
	_, _, errno = syscall.AllThreadsSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0)
	if err := failed(errno); err != nil {
		return fmt.Errorf("landlock: %w", err)
	}
	restricted.Store(true)
	return nil
}

// handled returns the rights that this kernel knows.
func handled() (rights uint64, err error) {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0, ErrNoLandlock
	}
	rights = unix.LANDLOCK_ACCESS_FS_REFER - 1 // all of the first version
	if abi >= 2 {
		rights |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if abi >= 3 {
		rights |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if abi >= 5 {
		rights |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	return rights, nil
}

// allow adds a rule.
func allow(ruleset int, path string, rights uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		rights &= ofFiles
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: rights, Parent_fd: int32(fd)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
