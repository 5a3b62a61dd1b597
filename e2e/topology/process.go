package topology

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/caplance/caplance/core/nettest/slow"
)

// Process is a program running in a host.
type Process struct {
	*exec.Cmd
	name string
	out  output
	done chan struct{}
	err  error
}

// output collects what a program prints.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

// Start runs a program inside the host. It dies with this process.
func (h *Host) Start(program string, args ...string) (*Process, error) {
	return h.start(&syscall.SysProcAttr{}, program, args...)
}

// StartPrivate does so in a mount namespace of the program's own, which nothing
// that it mounts leaves: as systemd's PrivateTmp has it.
func (h *Host) StartPrivate(program string, args ...string) (*Process, error) {
	return h.start(&syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}, program, args...)
}

func (h *Host) start(attr *syscall.SysProcAttr, program string, args ...string) (*Process, error) {
	p := &Process{Cmd: exec.Command(program, args...), name: h.Name, done: make(chan struct{})}
	p.Stdout, p.Stderr = &p.out, &p.out
	attr.Pdeathsig = syscall.SIGKILL
	p.SysProcAttr = attr
	started := make(chan error)
	go func() {
		// Pdeathsig is tied to the thread that forks, so it stays for as long.
		runtime.LockOSThread()
		var err error
		if h.Mounts != nil {
			err = h.Mounts.enter()
		}
		if err == nil {
			err = h.Do(p.Cmd.Start)
		}
		started <- err
		if err == nil {
			p.err = p.Wait()
			close(p.done)
		}
	}()
	return p, <-started
}

// Output returns what the program has printed so far.
func (p *Process) Output() string {
	p.out.mu.Lock()
	defer p.out.mu.Unlock()
	return p.out.buf.String()
}

// Done returns a channel that is closed when the program has ended; then Err is valid.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err returns how the program ended: nil for exit code 0.
func (p *Process) Err() error { return p.err }

// Signal sends a signal; a program that has ended is left alone.
func (p *Process) Signal(s os.Signal) {
	select {
	case <-p.done:
	default:
		_ = p.Cmd.Process.Signal(s)
	}
}

// Stop asks the program to end and waits; after the timeout it is killed,
// which is an error.
func (p *Process) Stop(timeout time.Duration) error {
	p.Signal(syscall.SIGCONT) // a stopped program cannot end
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return p.err
	case <-time.After(slow.Time(timeout)):
		p.Kill()
		return fmt.Errorf("%s: still running %s after SIGTERM", p.name, timeout)
	}
}

// Kill ends the program at once and waits.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.done
}

// Listen opens a TCP listener inside the host.
func (h *Host) Listen(addr string) (l net.Listener, err error) {
	err = h.Do(func() error {
		l, err = new(net.ListenConfig).Listen(context.Background(), "tcp", addr)
		return err
	})
	return l, err
}

// ListenPacket opens a UDP socket inside the host.
func (h *Host) ListenPacket(addr string) (c net.PacketConn, err error) {
	err = h.Do(func() error {
		c, err = new(net.ListenConfig).ListenPacket(context.Background(), "udp", addr)
		return err
	})
	return c, err
}

// Dial connects from the host to a literal address.
func (h *Host) Dial(ctx context.Context, network, addr string) (c net.Conn, err error) {
	err = h.Do(func() error {
		c, err = new(net.Dialer).DialContext(ctx, network, addr)
		return err
	})
	return c, err
}
