package cluster

import (
	"bufio"
	"cmp"
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
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/e2e/topology"
	"golang.org/x/sys/unix"
)

// Backend is a host with its own services and an agent.
type Backend struct {
	*topology.Host
	Data   netip.Addr
	Agent  *topology.Process
	Config string // more TOML for the agent, before its tables

	StopTimeout time.Duration // of the agent's drain, as slow scales it; default 3s

	// Keys are what the balancer's configuration lists of it; the last is the one
	// that it uses. NewKey adds one.
	Keys []auth.PublicKey

	cluster *Cluster
	made    int // keys
	closers []io.Closer
	frozen  sync.RWMutex // held for writing: the services answer nobody

	mu      sync.Mutex
	conns   map[net.Conn]bool
	release chan struct{} // closed by Release
}

// Serve starts the backend's services: HTTP, the line protocol and UDP echo.
func (b *Backend) Serve() error {
	b.mu.Lock()
	b.conns, b.release = map[net.Conn]bool{}, make(chan struct{})
	b.mu.Unlock()
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

// EndServices ends what Serve started, as a kill of the programs does: connections
// are reset, ports are closed.
func (b *Backend) EndServices() {
	for _, c := range b.closers {
		c.Close()
	}
	b.closers = nil
	b.HangUp()
	b.Release() // of those that hold their last word
}

// Freeze has the services answer nobody until Thaw, as if their programs were
// stopped: the kernel goes on to take connections for them.
func (b *Backend) Freeze() { b.frozen.Lock() }

// Thaw ends what Freeze began.
func (b *Backend) Thaw() { b.frozen.Unlock() }

// thawed waits while the services are frozen.
func (b *Backend) thawed() {
	b.frozen.RLock()
	b.frozen.RUnlock()
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

// http answers GET with the backend's name, GET /slow/N with a download of N pieces
// of a kilobyte, one each 10 ms, and POST with the name, the length and the
// SHA-256 of the body.
func (b *Backend) http(w http.ResponseWriter, r *http.Request) {
	b.thawed()
	if n, ok := strings.CutPrefix(r.URL.Path, "/slow/"); ok {
		b.slow(w, r, n)
		return
	}
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

func (b *Backend) slow(w http.ResponseWriter, r *http.Request, pieces string) {
	n, err := strconv.Atoi(pieces)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Backend", b.Name)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range n {
		if _, err := w.Write(make([]byte, 1024)); err != nil {
			return
		}
		_ = http.NewResponseController(w).Flush()
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

// lines says the backend's name on every connection, then echoes lines. After the
// line "reset" it ends the connection by RST; after "late 3s" and the end of what
// the client has to say it waits so long and says "late", after "held" until
// Release.
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
			b.talk(conn)
		}()
	}
}

// talk serves one connection of lines.
func (b *Backend) talk(conn net.Conn) {
	b.thawed()
	fmt.Fprintf(conn, "%s\n", b.Name)
	var late time.Duration
	b.mu.Lock()
	release, held := b.release, false
	b.mu.Unlock()
	for r := bufio.NewReader(conn); ; {
		line, err := r.ReadString('\n')
		b.thawed()
		switch wait, ok := strings.CutPrefix(strings.TrimSpace(line), "late "); {
		case err != nil && held:
			<-release
			fmt.Fprintln(conn, "late")
			return
		case err != nil && late > 0:
			time.Sleep(late)
			fmt.Fprintln(conn, "late")
			return
		case err != nil:
			return
		case line == "reset\n":
			conn.(*net.TCPConn).SetLinger(0)
			return
		case line == "held\n":
			held = true
		case ok:
			late, _ = time.ParseDuration(wait)
		}
		if _, err := io.WriteString(conn, line); err != nil {
			return
		}
	}
}

// Lines returns how many connections of lines are open.
func (b *Backend) Lines() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.conns)
}

// Release has the half-closed connections that are held say what they have to say.
func (b *Backend) Release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.release)
	b.release = make(chan struct{})
}

// Holds reports whether a connection of lines from a client is open.
func (b *Backend) Holds(client netip.AddrPort) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		from := c.RemoteAddr().(*net.TCPAddr).AddrPort()
		if netip.AddrPortFrom(from.Addr().Unmap(), from.Port()) == client {
			return true
		}
	}
	return false
}

// HangUp resets all connections of lines.
func (b *Backend) HangUp() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
		delete(b.conns, c) // before its client can ask
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
		b.thawed()
		if err == nil {
			_, _ = pc.WriteTo(fmt.Appendf(nil, "%s %s", b.Name, buf[:n]), from)
		}
	}
}

// Socket returns the agent's control socket.
func (b *Backend) Socket() string { return filepath.Join(b.cluster.Dir, b.Name+".sock") }

// WriteConfig writes the agent's configuration file and returns its path.
func (b *Backend) WriteConfig() (string, error) {
	server := netip.AddrPortFrom(b.cluster.front.addr4(1), 1338)
	if b.Data.Is6() {
		server = netip.AddrPortFrom(b.cluster.front.addr6(1), 1338)
	}
	keys := ""
	switch {
	case b.cluster.CA:
		keys = fmt.Sprintf("%s\nbalancer_names = [%q]", b.cluster.certificate(b.Name), BalancerName)
	case !b.cluster.Keyless:
		keys = fmt.Sprintf("key = %q\nbalancer_keys = [%q]", b.keyFile(), b.cluster.key)
	}
	file := filepath.Join(b.cluster.Dir, b.Name+".toml")
	return file, os.WriteFile(file, fmt.Appendf(nil, `name = %q
server = %q
data_ip = %q
read_timeout = %q
stop_timeout = %q
type = %q
state_dir = %q
control = %q
%s
%s
[log]
level = "debug"
`, b.Name, server, b.Data, slow.Time(2*time.Second), slow.Time(cmp.Or(b.StopTimeout, 3*time.Second)), b.cluster.agentType(), filepath.Join(b.cluster.Dir, b.Name), b.Socket(), keys, b.Config), 0o644)
}

// NewKey makes another key for the agent; its next configuration names it.
func (b *Backend) NewKey() error {
	pair := auth.NewKeyPair()
	b.Keys = append(b.Keys, pair.Public())
	b.made++
	return pair.Save(b.keyFile())
}

// LoseKey removes the key that the agent uses.
func (b *Backend) LoseKey() error { return os.Remove(b.keyFile()) }

func (b *Backend) keyFile() string {
	return filepath.Join(b.cluster.Dir, fmt.Sprintf("%s.%d.key", b.Name, b.made))
}

// StartAgent starts the backend's agent and returns when its control socket
// answers.
func (b *Backend) StartAgent(ctx context.Context) error {
	file, err := b.WriteConfig()
	if err != nil {
		return err
	}
	return b.StartAgentWith(ctx, file)
}

// StartAgentWith does so with a configuration file of the caller's.
func (b *Backend) StartAgentWith(ctx context.Context, file string) (err error) {
	command := append(slices.Clone(b.cluster.Under), filepath.Join(b.cluster.Bin, "caplance"), "agent", "-c", file)
	if b.Agent, err = b.Start(command[0], command[1:]...); err != nil {
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
	close(b.release)
	for c := range b.conns {
		c.Close()
	}
}
