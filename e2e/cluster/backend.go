package cluster

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/caplance/caplance/e2e/topology"
	"golang.org/x/sys/unix"
)

// Backend is a host with its own services and an agent.
type Backend struct {
	*topology.Host
	Data   netip.Addr
	Agent  *topology.Process
	Config string // more TOML for the agent, before its tables

	cluster *Cluster
	closers []io.Closer
	mu      sync.Mutex
	conns   map[net.Conn]bool
}

// serve starts the backend's services: HTTP, the line protocol and UDP echo.
func (b *Backend) serve() error {
	b.conns = map[net.Conn]bool{}
	web, err := b.Listen(fmt.Sprintf("[::]:%d", HTTPPort))
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: http.HandlerFunc(b.http)}
	b.closers = append(b.closers, srv)
	go srv.Serve(web)

	line, err := b.Listen(fmt.Sprintf("[::]:%d", LinePort))
	if err != nil {
		return err
	}
	b.closers = append(b.closers, line)
	go b.lines(line)

	for _, vip := range []netip.Addr{VIP4, VIP6} {
		// Bound to the VIP before the agent adds it, so that answers come from it.
		var pc net.PacketConn
		err := b.Do(func() (err error) {
			lc := net.ListenConfig{Control: freebind}
			pc, err = lc.ListenPacket(context.Background(), "udp", netip.AddrPortFrom(vip, UDPPort).String())
			return err
		})
		if err != nil {
			return err
		}
		b.closers = append(b.closers, pc)
		go b.echo(pc)
	}
	return nil
}

func freebind(network, _ string, c syscall.RawConn) error {
	var opt error
	err := c.Control(func(fd uintptr) {
		level, name := unix.IPPROTO_IP, unix.IP_FREEBIND
		if network == "udp6" {
			level, name = unix.IPPROTO_IPV6, unix.IPV6_FREEBIND
		}
		opt = unix.SetsockoptInt(int(fd), level, name, 1)
	})
	return errors.Join(err, opt)
}

// http answers GET with the backend's name, and POST with the name, the length
// and the SHA-256 of the body.
func (b *Backend) http(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		fmt.Fprintf(w, "%s %s\n", b.Name, r.RemoteAddr)
		return
	}
	h := sha256.New()
	n, err := io.Copy(h, r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintf(w, "%s %d %x\n", b.Name, n, h.Sum(nil))
}

// lines says the backend's name on every connection, then echoes lines.
func (b *Backend) lines(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		b.mu.Lock()
		b.conns[conn] = true
		b.mu.Unlock()
		go func() {
			defer func() {
				b.mu.Lock()
				delete(b.conns, conn)
				b.mu.Unlock()
				conn.Close()
			}()
			fmt.Fprintf(conn, "%s\n", b.Name)
			for r := bufio.NewReader(conn); ; {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if _, err := io.WriteString(conn, line); err != nil {
					return
				}
			}
		}()
	}
}

// echo answers each datagram with the backend's name, a space and the datagram.
func (b *Backend) echo(pc net.PacketConn) {
	buf := make([]byte, 65536)
	for {
		n, from, err := pc.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = pc.WriteTo(fmt.Appendf(nil, "%s %s", b.Name, buf[:n]), from)
		}
	}
}

// Socket is the agent's control socket.
func (b *Backend) Socket() string { return filepath.Join(b.cluster.Dir, b.Name+".sock") }

// WriteConfig writes the agent's configuration file and returns its path.
func (b *Backend) WriteConfig() (string, error) {
	server := netip.AddrPortFrom(b.cluster.front.addr4(1), 1338)
	if b.Data.Is6() {
		server = netip.AddrPortFrom(b.cluster.front.addr6(1), 1338)
	}
	file := filepath.Join(b.cluster.Dir, b.Name+".toml")
	return file, os.WriteFile(file, fmt.Appendf(nil, `name = %q
server = %q
data_ip = %q
heartbeat = "300ms"
read_timeout = "2s"
stop_timeout = "3s"
check_interval = "200ms"
rung = %q
state_dir = %q
control = %q
%s
[log]
level = "debug"
`, b.Name, server, b.Data, b.cluster.agentRung(), filepath.Join(b.cluster.Dir, b.Name), b.Socket(), b.Config), 0o644)
}

// StartAgent starts the backend's agent and returns when its control socket
// answers.
func (b *Backend) StartAgent(ctx context.Context) error {
	file, err := b.WriteConfig()
	if err != nil {
		return err
	}
	if b.Agent, err = b.Start(filepath.Join(b.cluster.Bin, "caplance"), "agent", "-c", file); err != nil {
		return err
	}
	return Await(ctx, b.Name+"'s agent", func() error {
		select {
		case <-b.Agent.Done():
			return Final(fmt.Errorf("agent ended: %w\n%s", b.Agent.Err(), b.Agent.Output()))
		default:
		}
		_, err := b.Call("GetState")
		return err
	})
}

// Call calls one of the agent's control methods: Pause, Resume, Drain,
// Deregister, GetState.
func (b *Backend) Call(method string) (string, error) { return call(b.Socket(), method, "") }

// StopAgent stops the agent and waits.
func (b *Backend) StopAgent() error {
	if err := b.Agent.Stop(10 * time.Second); err != nil {
		return fmt.Errorf("agent of %s: %w\n%s", b.Name, err, b.Agent.Output())
	}
	return nil
}

func (b *Backend) close() {
	if b.Agent != nil {
		b.Agent.Signal(syscall.SIGKILL)
		<-b.Agent.Done()
	}
	for _, c := range b.closers {
		c.Close()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		c.Close()
	}
}
