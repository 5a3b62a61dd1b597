package agent

import (
	"bufio"
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

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/core/probe"
)

// choices returns what the balancer has registered.
func (b *balancer) choices() (list []core.Backend) { return b.registry.Backends() }

func mustReload(t *testing.T, a *running, change func(*Config)) {
	t.Helper()
	cfg := *a.config()
	change(&cfg)
	if err := a.Reload(cfg); err != nil {
		t.Fatal(err)
	}
}

func TestReloadUpdatesTheBackend(t *testing.T) {
	b := newBalancer(t, freePort(t))
	a := start(t, b.config())
	b.until("b1 active")
	since := b.choices()[0].Since
	mustCall(t, a.config().Control, "Pause", "Paused")
	b.until("b1 paused")
	mustReload(t, a, func(c *Config) {
		c.Weight, c.Services, c.MaxFlows, c.Priority, c.Zone, c.Label, c.Mode = 7, []string{"web"}, 5, 1, 2, 3, core.ModeDirect
		c.ReadTimeout = slow.Time(6 * time.Second)
	})
	got := b.choices()[0]
	if got.Weight != 7 || len(got.Services) != 1 || got.MaxFlows != 5 || got.Priority != 1 || got.Zone != 2 || got.Label != 3 || got.Mode != core.ModeDirect {
		t.Errorf("backend became %+v", got)
	}
	if !got.Since.Equal(since) || got.State != core.Paused || a.State() != Paused {
		t.Errorf("backend became %+v, agent %s", got, a.State())
	}
	cfg := *a.config()
	cfg.Services = []string{"mail"}
	if err := a.Reload(cfg); err == nil || !strings.Contains(err.Error(), "service mail is not configured") {
		t.Errorf("unknown service: %v", err)
	}
	if got := b.choices()[0]; !got.Since.Equal(since) || len(got.Services) != 1 || a.config().Services[0] != "web" {
		t.Errorf("a refused reload changed %+v, %v", got, a.config().Services)
	}
	mustCall(t, a.config().Control, "Resume", "Active")
}

// oldBalancer relays sessions to b as a balancer of the first edition does, that
// has no updates. It returns its address.
func (b *balancer) oldBalancer() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	var wg sync.WaitGroup
	b.t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			agent, err := l.Accept()
			if err != nil {
				return
			}
			registry, err := net.Dial("tcp", b.addr.String())
			if err != nil {
				agent.Close()
				continue
			}
			wg.Go(func() { defer registry.Close(); io.Copy(registry, agent) })
			wg.Go(func() {
				defer agent.Close()
				for lines := bufio.NewScanner(registry); lines.Scan(); {
					fmt.Fprintln(agent, strings.Replace(lines.Text(), " update=yes", "", 1))
				}
			})
		}
	})
	return l.Addr().String()
}

func TestReloadWithABalancerWithoutUpdates(t *testing.T) {
	b := newBalancer(t, freePort(t))
	cfg := b.config()
	cfg.Server = b.oldBalancer()
	a := start(t, cfg)
	b.until("b1 active")
	since := b.choices()[0].Since
	mustReload(t, a, func(c *Config) { c.Weight = 7 })
	b.until("b1 lost")
	b.until("b1 active")
	if got := b.choices()[0]; got.Weight != 7 || !got.Since.Equal(since) {
		t.Errorf("backend became %+v; its flows are those since %s", got, since)
	}
	if err := a.stop(); err != nil {
		t.Error(err)
	}
}

func TestReloadOfWhatCannotChange(t *testing.T) {
	a := New(Config{Name: "b1", Server: "lb:1"}, slog.New(slog.DiscardHandler))
	next := Config{
		Name: "b2", Server: "lb:2", DataIP: vip4, Port: 1, Type: core.TC, Control: "/x", StateDir: "/y", Log: config.DefaultLog(), Weight: 4,
	}
	err := a.Reload(next)
	if err == nil || !strings.Contains(err.Error(), "name, server, data_ip, tunnel_port, type, control, state_dir, log cannot change") || a.config().Weight != 0 {
		t.Errorf("reload: %v, weight %d", err, a.config().Weight)
	}
}

// logs stands for the process's log.
type logs struct {
	level string
	fail  error
}

func (l *logs) Apply(c config.Log) error {
	if l.fail == nil {
		l.level = c.Level
	}
	return l.fail
}

func TestReloadChangesTheLog(t *testing.T) {
	b := newBalancer(t, freePort(t))
	l := &logs{}
	cfg := b.config()
	a := start(t, cfg)
	a.ControlLog(l)
	b.until("b1 active")
	mustReload(t, a, func(c *Config) { c.Log.Level = "debug" })
	if l.level != "debug" {
		t.Errorf("level %q", l.level)
	}
	cfg = *a.config()
	cfg.Log.Level, cfg.Services = "warn", []string{"mail"}
	if err := a.Reload(cfg); err == nil || l.level != "debug" {
		t.Errorf("refused reload: %v, level %q", err, l.level)
	}
	l.fail = errors.New("no such directory")
	cfg.Services = nil
	if err := a.Reload(cfg); err == nil || !strings.Contains(err.Error(), "log: no such directory") {
		t.Errorf("reload: %v", err)
	}
}

func TestReloadChangesTheCheck(t *testing.T) {
	b := newBalancer(t, freePort(t))
	a := start(t, b.config())
	b.until("b1 active")
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := probe.Spec{Service: probe.Whole, Kind: probe.TCP, Address: port.Addr().String(), Interval: time.Second, Timeout: slow.Time(time.Second), Rise: 1, Fall: 1}
	port.Close()
	mustReload(t, a, func(c *Config) { c.Checks = []probe.Spec{closed} })
	b.until("b1 unhealthy")
	mustReload(t, a, func(c *Config) { c.Checks = nil })
	b.until("b1 active")
}

func TestReloadOfVIPsForOldBalancers(t *testing.T) {
	b := newBalancer(t, freePort(t))
	b.offer.VIPs = nil
	a := start(t, b.config())
	b.until("b1 active")
	mustReload(t, a, func(c *Config) { c.VIPs = []netip.Addr{vip6} })
	a.eventually("2001:db8::1 at 1400 bytes", a.serves)
}

func TestReloadBeforeRegistration(t *testing.T) {
	b := newBalancer(t, freePort(t))
	b.deaf = true
	a := start(t, b.config())
	mustReload(t, a, func(c *Config) { c.Weight = 9 })
	b.stop()
	mustReload(t, a, func(c *Config) { c.Zone = 4 })
	b.mu.Lock()
	b.deaf = false
	b.mu.Unlock()
	b.start()
	b.until("b1 active")
	if got := b.choices()[0]; got.Weight != 9 || got.Zone != 4 {
		t.Errorf("registered as %+v", got)
	}
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	if err := a.Reload(*a.config()); err == nil || !strings.Contains(err.Error(), "agent has stopped") {
		t.Errorf("reload of a stopped agent: %v", err)
	}
}

func TestServiceManagerIsNotified(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	expect := func(want ...string) {
		t.Helper()
		for _, w := range want {
			buf := make([]byte, 100)
			if n, err := manager.Read(buf); err != nil || !strings.HasPrefix(string(buf[:n]), w) {
				t.Errorf("got %q, %v, want %q", buf[:n], err, w)
			}
		}
	}
	b := newBalancer(t, freePort(t))
	a := start(t, b.config())
	expect("READY=1")
	mustReload(t, a, func(c *Config) { c.Weight = 2 })
	expect("RELOADING=1\nMONOTONIC_USEC=", "READY=1")
	if err := a.stop(); err != nil {
		t.Error(err)
	}
	expect("STOPPING=1")
}
