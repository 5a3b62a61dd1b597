package control

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Group is a group of users of the machine.
type Group struct {
	Name string // as the configuration has it
	GID  uint32
}

// Access says who may use a control socket beside root and the daemon's own user.
type Access struct {
	Group *Group // control_group: may do all; nil: nobody
	Read  *Group // control_read_group: may ask; nil: nobody
}

// NewAccess returns who may use a socket by the names of the groups, "" for none;
// find returns a group's number.
func NewAccess(group, read string, find func(name string) (uint32, error)) (a Access, err error) {
	for _, g := range []struct {
		key, name string
		into      **Group
	}{{"control_group", group, &a.Group}, {"control_read_group", read, &a.Read}} {
		if g.name == "" {
			continue
		}
		gid, err := find(g.name)
		if err != nil {
			return Access{}, fmt.Errorf("%s: %w", g.key, err)
		}
		*g.into = &Group{g.name, gid}
	}
	return a, nil
}

// Options are what a control socket is made with.
type Options struct {
	Path    string
	Access  Access
	Clients int // connections at once, at least 1; 0: DefaultClients
	Log     *slog.Logger
}

// DefaultClients is how many connections a socket has at once by default.
const DefaultClients = 64

// level is what a caller may do.
type level uint8

const (
	nobody   level = iota // nothing
	reader                // ask
	operator              // give orders
)

// caller is who is at the other end of a connection, as of its begin.
type caller struct {
	unix.Ucred
	level level
	known bool // else the kernel did not tell
}

// callerAt finds out who has connected (SO_PEERCRED, SO_PEERGROUPS; unix(7)).
func (a Access) callerAt(conn net.Conn) (c caller) {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return c
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return c
	}
	_ = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			return
		}
		c.Ucred, c.known = *cred, true
		c.level = a.level(cred.Uid, append(peerGroups(fd), cred.Gid))
	})
	return c
}

// level returns what a user in these groups may do.
func (a Access) level(uid uint32, groups []uint32) level {
	in := func(g *Group) bool { return g != nil && slices.Contains(groups, g.GID) }
	switch {
	case uid == 0 || int(uid) == os.Geteuid() || in(a.Group):
		return operator
	case in(a.Read):
		return reader
	}
	return nobody
}

// peerGroups returns the supplementary groups of who connected, none on kernels
// before 4.13.
func peerGroups(fd uintptr) []uint32 {
	for room := 64; ; {
		groups := make([]uint32, room)
		size := uint32(4 * room)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return groups[:size/4]
		case errno == unix.ERANGE && int(size/4) > room:
			room = int(size / 4)
		default:
			return nil
		}
	}
}

// refuse returns why a caller may not do what needs a level, nil if it may.
func (a Access) refuse(c caller, need level) error {
	if c.level >= need {
		return nil
	}
	who := "a caller whom the kernel does not name"
	if c.known {
		who = fmt.Sprintf("user %s (uid %d)", userName(c.Uid), c.Uid)
	}
	if need == reader {
		return fmt.Errorf("%s may not ask here: that takes root, or a group that control_group or control_read_group names (%s; %s)", who, a.names("control_group", a.Group), a.names("control_read_group", a.Read))
	}
	return fmt.Errorf("%s may not give orders here: that takes root, or the group that control_group names (%s)", who, a.names("control_group", a.Group))
}

func (a Access) names(key string, g *Group) string {
	if g == nil {
		return key + " names none"
	}
	return fmt.Sprintf("%s is %q", key, g.Name)
}

// apply gives a socket's file to who may open it. A file has one group: with two,
// everybody may connect, and who is not in one of them is told so.
func (a Access) apply(path string) error {
	mode, gid := os.FileMode(0o600), -1
	switch {
	case a.Group != nil && a.Read != nil && a.Group.GID != a.Read.GID:
		mode = 0o666
	case a.Group != nil:
		mode, gid = 0o660, int(a.Group.GID)
	case a.Read != nil:
		mode, gid = 0o660, int(a.Read.GID)
	}
	if gid >= 0 {
		if err := os.Chown(path, -1, gid); err != nil {
			return err
		}
	}
	return os.Chmod(path, mode)
}

// commandLine returns what a process was started as, "" if it is gone.
func commandLine(pid int32) string {
	const most = 256
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || pid == 0 {
		return ""
	}
	line := strings.TrimSpace(strings.ReplaceAll(string(data[:min(len(data), most)]), "\x00", " "))
	if len(data) > most {
		line += " …"
	}
	return strings.ToValidUTF8(line, "?")
}
