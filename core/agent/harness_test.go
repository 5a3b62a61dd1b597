package agent

import (
	"context"
	"errors"
	"fmt"
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
	fail    error
}

func (m *fakeMachine) Write(p []byte) (int, error) {
	m.packets <- append([]byte(nil), p...)
	return len(p), nil
}

func (m *fakeMachine) Serve(vips []netip.Addr, mtu int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.vips, m.mtu = vips, mtu
	return m.fail
}

func (m *fakeMachine) Close() error { return nil }

// balancer is a real registry on the loopback, with a UDP socket for a tunnel.
type balancer struct {
	t      *testing.T
	addr   netip.AddrPort
	tunnel *net.UDPConn
	port   uint16 // of the agent's tunnel
	pools  chan string
	mu     sync.Mutex
	active int
	deaf   bool // sanity datagrams are lost
	offer  registry.Offer
	stop   func()
}

func newBalancer(t *testing.T, agentPort uint16) *balancer {
	t.Helper()
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	b := &balancer{t: t, tunnel: conn, port: agentPort, pools: make(chan string, 1000), addr: netip.MustParseAddrPort("127.0.0.1:0"),
		offer: registry.Offer{VIPs: []netip.Addr{vip4, vip6}, MTU: 1400, Balancers: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}}
	b.start()
	return b
}

// start runs the registry, on the same port when it ran before.
func (b *balancer) start() {
	b.t.Helper()
	r := registry.New(registry.Config{
		Addr: b.addr, Agents: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		ReadTimeout: 30 * time.Second, WriteTimeout: time.Second, SanityTimeout: 3 * time.Second, DrainTimeout: time.Minute,
		Services: []string{"web"},
		Sanity: func(to netip.Addr, d []byte) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.deaf {
				return errors.New("deaf")
			}
			_, err := b.tunnel.WriteToUDPAddrPort(d, netip.AddrPortFrom(to, b.port))
			return err
		},
		Offer: func(core.Backend) registry.Offer { return b.offer },
		Active: func(string) int {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.active
		},
		OnChange: func(list []core.Backend) {
			words := []string{}
			for _, be := range list {
				words = append(words, fmt.Sprint(be.Name, " ", be.State))
			}
			b.pools <- strings.Join(words, ", ")
		},
		Log: slog.New(slog.DiscardHandler),
	})
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
	timeout := time.After(20 * time.Second)
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

// freePort is a UDP port of the loopback that nobody has.
func freePort(t *testing.T) uint16 {
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
		Heartbeat: 100 * time.Millisecond, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second,
		CheckInterval: 20 * time.Millisecond, CheckTimeout: time.Second,
		Drain: true, StopTimeout: 10 * time.Second,
		Control: filepath.Join(b.t.TempDir(), "agent.sock"), StateDir: b.t.TempDir(),
	}
}

// running is an agent on a fake machine.
type running struct {
	*Agent
	m    *fakeMachine
	stop func() error
}

func start(t *testing.T, cfg Config) *running {
	t.Helper()
	r := &running{Agent: New(cfg, slog.New(slog.DiscardHandler)), m: &fakeMachine{packets: make(chan []byte, 100)}}
	r.dataIP = cfg.DataIP
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.run(ctx, r.m) }()
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
