package hostnet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Role is what a process is on its machine. One of each may run in a network
// namespace.
type Role string

// The roles.
const (
	Server Role = "server"
	Agent  Role = "agent"
)

// Lock holds the network namespace and the state directory for one process.
type Lock struct {
	socket int
	file   *os.File
}

// TakeLock makes this process the only one of its role in the network namespace
// of the calling thread and in the state directory, which is made when it is
// missing. Nothing else is touched. The error wraps ErrBusy when another one is
// there, and names it. The locks end with the process.
//
// In the network namespace the lock is the name of an abstract unix socket,
// @caplance-server or @caplance-agent, which needs no file and is seen by all
// processes there, whatever their state directory.
func TakeLock(role Role, stateDir string) (*Lock, error) {
	socket, err := lockNamespace(role) // first: who is refused makes no directory
	if err != nil {
		return nil, err
	}
	if err := secureDir(stateDir); err != nil {
		unix.Close(socket)
		return nil, err
	}
	path := filepath.Join(stateDir, string(role)+".lock")
	file, err := openLocked(path)
	if errors.Is(err, ErrBusy) {
		err = fmt.Errorf("state directory %s: %w, in another network namespace: stop it, or set state_dir to another directory", stateDir, err)
	} else if err != nil {
		err = fmt.Errorf("lock %s: %w", path, err)
	}
	if err != nil {
		unix.Close(socket)
		return nil, err
	}
	return &Lock{socket, file}, nil
}

// Close lets go of both.
func (l *Lock) Close() error {
	return errors.Join(os.Remove(l.file.Name()), l.file.Close(), unix.Close(l.socket))
}

// lockNamespace binds the name. The socket listens only so that others can ask
// who has it.
func lockNamespace(role Role) (socket int, err error) {
	addr := &unix.SockaddrUnix{Name: "@caplance-" + string(role)}
	if socket, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return -1, fmt.Errorf("lock of the network namespace: %w", err)
	}
	if err = unix.Bind(socket, addr); err == nil {
		if err = unix.Listen(socket, unix.SOMAXCONN); err == nil {
			return socket, nil
		}
	}
	if errors.Is(err, unix.EADDRINUSE) {
		err = fmt.Errorf("%w (%s)", ErrBusy, holder(socket, addr))
	}
	unix.Close(socket)
	return -1, fmt.Errorf("network namespace: lock %s: %w: one %s at a time may run here, stop that one or use another network namespace", addr.Name, err, role)
}

// holder names the process that listens at a name.
func holder(socket int, addr unix.Sockaddr) string {
	if err := unix.Connect(socket, addr); err != nil {
		return "process not known"
	}
	cred, err := unix.GetsockoptUcred(socket, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || cred.Pid == 0 {
		return "process of another PID namespace"
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cred.Pid))
	if err != nil {
		return fmt.Sprintf("process %d", cred.Pid)
	}
	return fmt.Sprintf("process %d, %s", cred.Pid, strings.TrimSpace(string(name)))
}
