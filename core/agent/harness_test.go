package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/core/reconcile"
	"github.com/caplance/caplance/core/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	vip4 = netip.MustParseAddr("192.0.2.1")
	vip6 = netip.MustParseAddr("2001:db8::1")
)

// fakeMachine remembers what it was told.
type fakeMachine struct {
	mu      sync.Mutex
	vips    []netip.Addr
	mtu     int
	packets chan []byte
	fail    error // of every state with VIPs
	drift   error // until the next Add
	closed  string
}

func (m *fakeMachine) Write(p []byte) (int, error) {
	m.packets <- append([]byte(nil), p...)
	return len(p), nil
}

func (m *fakeMachine) String() string { return "fake" }

func (m *fakeMachine) Add(_ context.Context, _, want *desired) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil && len(want.vips) > 0 {
		return m.fail
	}
	m.vips, m.mtu, m.drift = want.vips, want.mtu, nil
	return nil
}

func (m *fakeMachine) Prune(context.Context, *desired, *desired) error { return nil }

func (m *fakeMachine) Verify(context.Context, *desired) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.drift
}

func (m *fakeMachine) set(fail, drift error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail, m.drift = fail, drift
}

func (m *fakeMachine) open() (*machine, error) {
	return &machine{out: m, targets: []reconcile.Target[desired]{m}, close: func(leave bool) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.closed = map[bool]string{false: "taken back", true: "left"}[leave]
		return nil
	}}, nil
}

// prepare lets an agent run beside others on fake machines.
func (a *Agent) prepare() {
	a.lock = func(string) (io.Closer, error) { return io.NopCloser(nil), nil }
	a.guards = func() *guard { return &guard{allowed: a.config().VIPNetworks} } // whatever this machine has
}

// balancer is a real registry on the loopback, with a UDP socket for a tunnel.
type balancer struct {
	t        *testing.T
	addr     netip.AddrPort
	tunnel   *net.UDPConn
	port     uint16 // of the agent's tunnel
	pools    chan string
	mu       sync.Mutex
	active   int
	orders   string // of the operator
	deaf     bool   // sanity datagrams are lost
	offer    registry.Offer
	settings registry.Settings
	log      slog.Handler
	registry *registry.Registry
	stop     func()
}

func newBalancer(t *testing.T, agentPort uint16) *balancer {
	t.Helper()
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	b := &balancer{t: t, log: slog.DiscardHandler, tunnel: conn, port: agentPort, pools: make(chan string, 1000), addr: netip.MustParseAddrPort("127.0.0.1:0"),
		offer: registry.Offer{VIPs: []netip.Addr{vip4, vip6}, MTU: 1400, Balancers: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}}
	b.settings = registry.Settings{
		Agents: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Allow:  []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		Lease:  300 * time.Millisecond, Grace: slow.Time(30 * time.Second), PlainLease: slow.Time(30 * time.Second), Rejoin: slow.Time(30 * time.Second), WriteTimeout: slow.Time(time.Second), SanityTimeout: slow.Time(3 * time.Second), DrainTimeout: time.Minute,
		Services: []string{"web"},
	}
	b.start()
	return b
}

// start runs the registry, on the same port when it ran before.
func (b *balancer) start() {
	b.t.Helper()
	r := registry.New(registry.Config{
		Addr:     b.addr,
		Settings: b.settings,
		Sanity: func(to netip.Addr, d []byte) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.deaf {
				return errors.New("deaf")
			}
			_, err := b.tunnel.WriteToUDPAddrPort(d, netip.AddrPortFrom(to, b.port))
			return err
		},
		Offer: func(core.Backend) registry.Offer {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.offer
		},
		Admin: func(string) string {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.orders
		},
		Active: func(core.Backend) int {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.active
		},
		Apply: func(list []core.Backend) uint64 {
			words := []string{}
			for _, be := range list {
				words = append(words, fmt.Sprint(be.Name, " ", be.State))
			}
			b.pools <- strings.Join(words, ", ")
			return 0
		},
		Log: slog.New(b.log),
	})
	b.registry = r
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	<-r.Ready()
	b.addr = r.Addr()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
	})
	b.t.Cleanup(b.stop)
}

// until waits for the pool to become as wanted.
func (b *balancer) until(want string) {
	b.t.Helper()
	timeout := time.After(slow.Time(20 * time.Second))
	var seen []string
	for {
		select {
		case got := <-b.pools:
			if got == want {
				return
			}
			seen = append(seen, got)
		case <-timeout:
			b.t.Fatalf("pool never became %q; it went %q", want, seen)
		}
	}
}

// freePort returns a UDP port of the loopback that nobody has.
func freePort(t testing.TB) uint16 {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return uint16(c.LocalAddr().(*net.UDPAddr).Port)
}

// testConfig is for an agent of the balancer, which beats fast.
func (b *balancer) config() Config {
	return Config{
		Name: "b1", Server: b.addr.String(), DataIP: netip.MustParseAddr("127.0.0.1"), Port: b.port, Weight: 1,
		ReadTimeout: slow.Time(5 * time.Second), WriteTimeout: slow.Time(5 * time.Second),
		Drain: true, StopTimeout: slow.Time(10 * time.Second),
		Control: filepath.Join(b.t.TempDir(), "agent.sock"), StateDir: b.t.TempDir(),
	}
}

// running is an agent on a fake machine.
type running struct {
	*Agent
	t    *testing.T
	m    *fakeMachine
	stop func() error
}

// serves returns what the machine was told last: "192.0.2.1 at 1400 bytes".
func (r *running) serves() string {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	words := make([]string, len(r.m.vips))
	for i, vip := range r.m.vips {
		words[i] = vip.String()
	}
	return fmt.Sprintf("%s at %d bytes", strings.Join(words, ","), r.m.mtu)
}

// eventually waits until got returns what is wanted.
func (r *running) eventually(want string, got func() string) {
	r.t.Helper()
	timeout := time.After(slow.Time(20 * time.Second))
	for got() != want {
		select {
		case <-timeout:
			r.t.Fatalf("it is %q after 20 s, want %q", got(), want)
		case <-time.After(time.Millisecond):
		}
	}
}

func start(t *testing.T, cfg Config) *running {
	t.Helper()
	return startLogged(t, cfg, slog.DiscardHandler)
}

func startLogged(t *testing.T, cfg Config, log slog.Handler) *running {
	t.Helper()
	return startWith(t, cfg, log, func(*Agent) {})
}

// startWith lets a test change an agent before it runs.
func startWith(t *testing.T, cfg Config, log slog.Handler, change func(*Agent)) *running {
	t.Helper()
	r := &running{t: t, Agent: New(cfg, slog.New(log)), m: &fakeMachine{packets: make(chan []byte, 100)}}
	r.prepare()
	change(r.Agent)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		defer close(r.stopped) // as Run does
		done <- r.run(ctx, r.m.open)
	}()
	r.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() { r.stop() })
	select {
	case <-r.Ready():
	case err := <-done:
		t.Fatalf("agent: %v", err)
	}
	return r
}
