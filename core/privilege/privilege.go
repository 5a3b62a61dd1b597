// Package privilege gives up what a process does not need once it has started,
// for all of its threads and its children: capabilities (capabilities(7)), and
// to gain new ones by exec (PR_SET_NO_NEW_PRIVS), and files (landlock(7)). It
// cannot be undone.
//
//	privilege.GiveUp(log, privilege.Plan{Own: []string{stateDir}})
//	…
//	fmt.Println(privilege.Held())
package privilege

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Capability is one of linux/capability.h.
type Capability int

// Those that are of use here.
const (
	DACOverride    Capability = unix.CAP_DAC_OVERRIDE
	NetBindService Capability = unix.CAP_NET_BIND_SERVICE
	NetAdmin       Capability = unix.CAP_NET_ADMIN
	NetRaw         Capability = unix.CAP_NET_RAW
	SysAdmin       Capability = unix.CAP_SYS_ADMIN
	Perfmon        Capability = unix.CAP_PERFMON
	BPF            Capability = unix.CAP_BPF
)

// names are those of the kernel's header, by number.
var names = strings.Fields("chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable " +
	"net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct " +
	"sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap mac_override " +
	"mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore")

func (c Capability) String() string {
	if int(c) < len(names) {
		return "CAP_" + strings.ToUpper(names[c])
	}
	return "CAP_" + strconv.Itoa(int(c))
}

// Need is a capability that is kept, and what for.
type Need struct {
	Capability
	Why string
}

// last returns the highest capability that the kernel knows.
func last() Capability {
	data, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	n, convErr := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || convErr != nil {
		return Capability(len(names) - 1)
	}
	return Capability(n)
}

// KnowsBPF reports whether the kernel has CAP_BPF and CAP_PERFMON, as it does
// from 5.8 on; before, CAP_SYS_ADMIN stands for them.
func KnowsBPF() bool { return last() >= BPF }

// ErrCgo is what Drop returns in a program that was built with cgo: threads of C
// would keep what they have.
var ErrCgo = errors.New("this program was built with cgo, whose threads cannot be reached (build it with CGO_ENABLED=0)")

// Drop gives up all capabilities but the needed ones that this process has, in
// every set and every thread, and with them the ways to get more. On an error the
// process may have given up some.
func Drop(needs []Need) error {
	keep := uint64(0)
	for _, n := range needs {
		keep |= 1 << n.Capability
	}
	held, err := capget()
	if err != nil {
		return err
	}
	if err := prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	if err := prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0); err != nil {
		return fmt.Errorf("ambient capabilities: %w", err)
	}
	if held.effective&(1<<unix.CAP_SETPCAP) != 0 { // else there is nothing more to be had than what is held
		for c := Capability(0); c <= last(); c++ {
			if keep&(1<<c) != 0 {
				continue
			}
			if err := prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0); err != nil {
				return fmt.Errorf("bounding set: %v: %w", c, err)
			}
		}
	}
	return capset(sets{effective: held.permitted & keep, permitted: held.permitted & keep})
}

// sets are the capabilities of a thread, a bit each.
type sets struct{ effective, permitted, inheritable uint64 }

// capget returns those of the calling thread; before Drop all have the same.
func capget() (s sets, err error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return s, fmt.Errorf("capabilities: %w", err)
	}
	wide := func(low, high uint32) uint64 { return uint64(high)<<32 | uint64(low) }
	return sets{
		wide(data[0].Effective, data[1].Effective), wide(data[0].Permitted, data[1].Permitted), wide(data[0].Inheritable, data[1].Inheritable),
	}, nil
}

// capset sets those of every thread.
func capset(s sets) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{
		{Effective: uint32(s.effective), Permitted: uint32(s.permitted), Inheritable: uint32(s.inheritable)},
		{Effective: uint32(s.effective >> 32), Permitted: uint32(s.permitted >> 32), Inheritable: uint32(s.inheritable >> 32)},
	}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0)
	if err := failed(errno); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	return nil
}

// prctl calls it in every thread.
func prctl(option int, arg2, arg3 uintptr) error {
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, uintptr(option), arg2, arg3, 0, 0, 0)
	return failed(errno)
}

func failed(errno syscall.Errno) error {
	switch errno {
	case 0:
		return nil
	case unix.ENOTSUP: // of package syscall: no such call returns it
		return ErrCgo
	}
	return errno
}

// Report is what the process may do.
type Report struct {
	Capabilities []string // effective, in the order of the kernel's header
	Bounding     []string // what children can have at most
	NoNewPrivs   bool
	Confined     bool // to some files, by Restrict
}

// Held returns what the calling thread has, which after Drop is what all have.
func Held() (r Report) {
	data, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return r
	}
	r = parse(string(data))
	r.Confined = restricted.Load()
	return r
}

// parse reads a status file of proc(5).
func parse(status string) (r Report) {
	for line := range strings.Lines(status) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "CapEff":
			r.Capabilities = list(value)
		case "CapBnd":
			r.Bounding = list(value)
		case "NoNewPrivs":
			r.NoNewPrivs = value == "1"
		}
	}
	return r
}

// list returns the names of a set in hexadecimal.
func list(hex string) (out []string) {
	bits, _ := strconv.ParseUint(hex, 16, 64)
	for c := Capability(0); c <= last(); c++ {
		if bits&(1<<c) != 0 {
			out = append(out, c.String())
		}
	}
	return out
}

// Foreign returns the first of some files that belongs to another user and that
// this one may not write to without CAP_DAC_OVERRIDE, "" if there is none. Those
// that are not there do not count.
func Foreign(paths ...string) string {
	for _, p := range paths {
		var st unix.Stat_t
		if p == "" || unix.Stat(p, &st) != nil {
			continue
		}
		group := st.Mode&0o020 != 0 && in(st.Gid)
		if int(st.Uid) != os.Geteuid() && !group && st.Mode&0o002 == 0 {
			return p
		}
	}
	return ""
}

func in(gid uint32) bool {
	groups, _ := os.Getgroups()
	return int(gid) == os.Getegid() || slices.Contains(groups, int(gid))
}
