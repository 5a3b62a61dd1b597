// Package e2e proves the whole system: the built binaries, in network
// namespaces, with real traffic. Each test has a cluster of its own
// (e2e/cluster draws it); `sudo make e2e` runs them all.
package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/e2e/cluster"
	"github.com/caplance/caplance/e2e/topology"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// bin is the directory of the built binaries.
var bin string

func TestMain(m *testing.M) {
	var done func()
	var err error
	if bin, done, err = topology.Binaries(".."); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		done()
		os.Exit(code)
	}))
}

// prepare makes a cluster that is not started yet.
func prepare(t testing.TB, o cluster.Options) *cluster.Cluster {
	t.Helper()
	nettest.Root(t)
	o.Bin, o.Dir = bin, t.TempDir()
	c, err := cluster.New(o)
	if o.Upper != "" && errors.Is(err, unix.EOPNOTSUPP) {
		nettest.Unbuilt(t, string(o.Upper)+" links")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			if c.Server != nil {
				t.Logf("counters: %v", counted(t, c))
				t.Logf("balancer:\n%s", tail(c.Server.Output()))
			}
			for _, b := range c.Backends {
				if b.Agent != nil {
					t.Logf("agent of %s:\n%s", b.Name, tail(b.Agent.Output()))
				}
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func tail(s string) string { return s[max(0, len(s)-6000):] }

// start makes a cluster and starts all of it.
func start(t testing.TB, o cluster.Options) *cluster.Cluster {
	t.Helper()
	c := prepare(t, o)
	must(t, c.StartServer(t.Context()))
	must(t, c.StartAgents(t.Context()))
	return c
}

// counted returns the balancer's counters that are not zero.
func counted(t testing.TB, c *cluster.Cluster) map[string]uint64 {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), slow.Time(time.Second))
	defer cancel()
	s, err := c.Control().Stats(ctx)
	if err != nil { // it has ended
		return nil
	}
	maps.DeleteFunc(s.Counters, func(_ string, n uint64) bool { return n == 0 })
	return s.Counters
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// await waits for a condition.
func await(t testing.TB, what string, ok func() error) {
	t.Helper()
	must(t, cluster.Await(t.Context(), what, ok))
}

// dial opens a TCP connection from the client.
func dial(t testing.TB, c *cluster.Cluster, to netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.Context(), slow.Time(10*time.Second))
	defer cancel()
	return c.Client.Dial(ctx, "tcp", to.String())
}

// line is an open connection of the line protocol, which ties it to a backend.
type line struct {
	net.Conn
	r       *bufio.Reader
	backend string
}

// openLine connects and reads the backend's name.
func openLine(t testing.TB, c *cluster.Cluster, vip netip.Addr) (*line, error) {
	conn, err := dial(t, c, netip.AddrPortFrom(vip, cluster.LinePort))
	if err != nil {
		return nil, err
	}
	return readName(conn)
}

// readName reads the backend's name from a new connection.
func readName(conn net.Conn) (*line, error) {
	l := &line{Conn: conn, r: bufio.NewReader(conn)}
	conn.SetDeadline(time.Now().Add(slow.Time(10 * time.Second)))
	name, err := l.r.ReadString('\n')
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("backend's name: %w", err)
	}
	l.backend = strings.TrimSpace(name)
	return l, nil
}

// openLines opens n connections that live until the test ends.
func openLines(t testing.TB, c *cluster.Cluster, vip netip.Addr, n int) []*line {
	t.Helper()
	var out []*line
	for range n {
		l, err := openLine(t, c, vip)
		must(t, err)
		t.Cleanup(func() { l.Close() })
		out = append(out, l)
	}
	return out
}

// ping sends a line and reads it back, within a time that slow scales.
func (l *line) ping(timeout time.Duration) error {
	l.SetDeadline(time.Now().Add(slow.Time(timeout)))
	if _, err := io.WriteString(l, "ping\n"); err != nil {
		return err
	}
	got, err := l.r.ReadString('\n')
	if err == nil && got != "ping\n" {
		err = fmt.Errorf("echo: %q", got)
	}
	if err == nil {
		err = l.settle()
	}
	return err
}

// settle has the echo acknowledged now, not up to 0.2 s later: a quiet connection
// is one that sends nothing.
func (l *line) settle() error {
	raw, err := l.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) })
	return errors.Join(err, set)
}

// finish closes our side and waits for the backend to close its own.
func (l *line) finish() error {
	l.SetDeadline(time.Now().Add(slow.Time(10 * time.Second)))
	if err := l.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	if got, err := l.r.ReadString('\n'); err != io.EOF || got != "" {
		return fmt.Errorf("%q, %w instead of the end", got, err)
	}
	return l.Close()
}

// byBackend counts connections per backend.
func byBackend(lines []*line) map[string]int {
	m := map[string]int{}
	for _, l := range lines {
		m[l.backend]++
	}
	return m
}

// httpGet asks the VIP by HTTP, on a connection of its own, for the name of
// the backend that answers.
func httpGet(t testing.TB, c *cluster.Cluster, vip netip.Addr) (backend string, err error) {
	client := httpClient(t, c)
	defer client.CloseIdleConnections()
	resp, err := client.Get(fmt.Sprintf("http://%s/", netip.AddrPortFrom(vip, cluster.HTTPPort)))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	backend, _, _ = strings.Cut(string(body), " ")
	return backend, err
}

func httpClient(t testing.TB, c *cluster.Cluster) *http.Client {
	return &http.Client{Timeout: slow.Time(60 * time.Second), Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return c.Client.Dial(ctx, network, addr)
		},
	}}
}

// udpAsk sends a datagram from a socket of its own and returns the name of the
// backend that answered, and from which address.
func udpAsk(t testing.TB, c *cluster.Cluster, vip netip.Addr, payload []byte) (backend string, from netip.AddrPort, err error) {
	local := "0.0.0.0:0"
	if vip.Is6() {
		local = "[::]:0"
	}
	pc, err := c.Client.ListenPacket(local)
	if err != nil {
		return "", from, err
	}
	defer pc.Close()
	return udpAskFrom(pc.(*net.UDPConn), vip, payload)
}

// udpAskFrom does so from a given socket, which is unconnected: it takes
// answers from anywhere.
func udpAskFrom(pc *net.UDPConn, vip netip.Addr, payload []byte) (backend string, from netip.AddrPort, err error) {
	if _, err = pc.WriteToUDPAddrPort(payload, netip.AddrPortFrom(vip, cluster.UDPPort)); err != nil {
		return "", from, err
	}
	pc.SetReadDeadline(time.Now().Add(slow.Time(2 * time.Second)))
	buf := make([]byte, 65536)
	n, from, err := pc.ReadFromUDPAddrPort(buf)
	if err != nil {
		return "", from, err
	}
	backend, echo, _ := strings.Cut(string(buf[:n]), " ")
	if echo != string(payload) {
		return backend, from, fmt.Errorf("%d bytes came back changed (%d)", len(payload), len(echo))
	}
	return backend, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), nil
}

// ctl runs caplancectl and returns what it printed and its exit code.
func ctl(t testing.TB, args ...string) (out string, code int) {
	t.Helper()
	return program(t, "caplancectl", args...)
}

// caplance runs caplance, in the namespace of the test.
func caplance(t testing.TB, args ...string) (out string, code int) {
	t.Helper()
	return program(t, "caplance", args...)
}

func program(t testing.TB, name string, args ...string) (out string, code int) {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, name), args...)
	b, err := cmd.CombinedOutput()
	if err != nil {
		if _, ok := err.(*exec.ExitError); !ok {
			t.Fatal(err)
		}
	}
	return string(b), cmd.ProcessState.ExitCode()
}
