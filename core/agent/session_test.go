package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/rpc"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caplance/caplance/core/registry"
)

// call is the ten-line program of the first generation's control client.
func call(t *testing.T, path, method, name string) (string, error) {
	t.Helper()
	c, err := rpc.DialHTTP("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var reply string
	err = c.Call("Client."+method, &name, &reply)
	return reply, err
}

func mustCall(t *testing.T, path, method, want string) {
	t.Helper()
	if got, err := call(t, path, method, ""); err != nil || got != want {
		t.Fatalf("%s: %q, %v, want %s", method, got, err, want)
	}
}

func TestLifeOfAnAgent(t *testing.T) {
	b := newBalancer(t, freePort(t))
	cfg := b.config()
	cfg.Services, cfg.Weight = []string{"web"}, 3
	a := start(t, cfg)
	b.until("b1 active")
	if !slices.Equal(a.m.vips, []netip.Addr{vip4, vip6}) || a.m.mtu != 1400 {
		t.Errorf("serves %v at %d bytes", a.m.vips, a.m.mtu)
	}
	sock := cfg.Control
	mustCall(t, sock, "GetState", "Active")
	mustCall(t, sock, "Pause", "Paused")
	b.until("b1 paused")
	mustCall(t, sock, "Resume", "Active")
	b.until("b1 active")
	b.mu.Lock()
	b.active = 1
	b.mu.Unlock()
	mustCall(t, sock, "Drain", "Draining")
	b.until("b1 draining")
	mustCall(t, sock, "GetState", "Draining")
	b.mu.Lock()
	b.active = 0
	b.mu.Unlock()
	b.until("")
	for a.State() != Drained { // the next HEALTHACK says it
		runtime.Gosched()
	}
	mustCall(t, sock, "Resume", "Active")
	b.until("b1 active")
	mustCall(t, sock, "Deregister", "Unregistered")
	b.until("")
	if _, err := call(t, sock, "Pause", ""); err == nil || !strings.Contains(err.Error(), "resume registers it again") {
		t.Errorf("pause of a deregistered agent: %v", err)
	}
	mustCall(t, sock, "Resume", "Registering")
	b.until("b1 active")
	if _, err := call(t, sock, "Pause", "b2"); err == nil || !strings.Contains(err.Error(), `"b2" is not this agent's (b1)`) {
		t.Errorf("pause of another name: %v", err)
	}
	if got, err := call(t, sock, "GetState", "b1"); err != nil || got != "Active" {
		t.Errorf("%s, %v", got, err)
	}
	if err := a.stop(); err != nil {
		t.Error(err)
	}
	b.until("b1 draining")
	b.until("")
}

func TestPausedStaysPausedWhenTheBalancerComesBack(t *testing.T) {
	b := newBalancer(t, freePort(t))
	cfg := b.config()
	a := start(t, cfg)
	b.until("b1 active")
	mustCall(t, cfg.Control, "Pause", "Paused")
	b.stop()
	for len(b.pools) > 0 {
		<-b.pools
	}
	b.start()
	if first := <-b.pools; first != "b1 paused" {
		t.Errorf("came back as %q", first)
	}
	if err := a.stop(); err != nil {
		t.Error(err)
	}
	b.until("")
}

func TestStopByDeregisterIsImmediate(t *testing.T) {
	b := newBalancer(t, freePort(t))
	b.active = 5
	cfg := b.config()
	cfg.Drain = false
	a := start(t, cfg)
	b.until("b1 active")
	if err := a.stop(); err != nil {
		t.Error(err)
	}
	b.until("")
}

func TestStopWhileNobodyAnswers(t *testing.T) {
	b := newBalancer(t, freePort(t))
	b.deaf = true
	a := start(t, b.config())
	if s := a.State(); s != Registering {
		t.Errorf("state %s", s)
	}
	if _, err := call(t, a.cfg.Control, "Drain", ""); err == nil || !strings.Contains(err.Error(), "not registered yet") {
		t.Errorf("drain: %v", err)
	}
	if err := a.stop(); err != nil {
		t.Error(err)
	}
}

func TestCheckDecides(t *testing.T) {
	var code atomic.Int64
	code.Store(http.StatusServiceUnavailable)
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(code.Load())) }))
	defer page.Close()
	b := newBalancer(t, freePort(t))
	cfg := b.config()
	cfg.Check, _ = url.Parse(page.URL)
	start(t, cfg)
	b.until("b1 unhealthy")
	code.Store(http.StatusNoContent)
	b.until("b1 active")
	page.Close()
	b.until("b1 unhealthy")
}

func TestTCPCheck(t *testing.T) {
	page := httptest.NewServer(http.NotFoundHandler())
	u, _ := url.Parse("tcp://" + page.Listener.Addr().String())
	c := &checker{target: u, timeout: 1e9}
	if code := c.check(t.Context()); code != healthy {
		t.Errorf("code %d of an open port", code)
	}
	page.Close()
	if code := c.check(t.Context()); code != unhealthy {
		t.Errorf("code %d of a closed port", code)
	}
}

func TestVIPsOfTheConfigurationForOldBalancers(t *testing.T) {
	b := newBalancer(t, freePort(t))
	b.offer = registry.Offer{}
	cfg := b.config()
	cfg.VIPs = []netip.Addr{vip4}
	a := start(t, cfg)
	b.until("b1 active")
	if !slices.Equal(a.m.vips, cfg.VIPs) || a.m.mtu != 65536-28 {
		t.Errorf("serves %v at %d bytes", a.m.vips, a.m.mtu)
	}
}

// A backend that cannot serve its VIPs never becomes eligible.
func TestMachineThatFailsIsTriedAgain(t *testing.T) {
	b := newBalancer(t, freePort(t))
	cfg := b.config()
	a := New(cfg, slog.New(slog.DiscardHandler))
	m := &fakeMachine{fail: errors.New("address on lo: no")}
	a.dataIP = cfg.DataIP
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- a.run(ctx, m) }()
	for range 2 {
		for _, want := range []string{"b1 unhealthy", "b1 lost"} {
			if got := <-b.pools; got != want {
				t.Fatalf("pool is %q, want %q", got, want)
			}
		}
	}
	m.mu.Lock()
	m.fail = nil
	m.mu.Unlock()
	b.until("b1 active")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A stranger's sanity datagrams before the balancer's cost nothing.
func TestForgedSanity(t *testing.T) {
	b := newBalancer(t, freePort(t))
	b.deaf = true
	start(t, b.config())
	stranger, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 9)}, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(b.port)})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	for i := range 20 {
		fmt.Fprintf(stranger, "SANITY %d", i)
	}
	b.mu.Lock()
	b.deaf = false
	b.mu.Unlock()
	b.until("b1 active")
}

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b backoff
		for _, step := range []time.Duration{250, 500, 1000, 2000, 3000, 3000} {
			start, step := time.Now(), step*time.Millisecond
			b.wait(t.Context())
			if d := time.Since(start); d < step/2 || d > step {
				t.Errorf("waited %s, want %s to %s", d, step/2, step)
			}
		}
		b.reset()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		start := time.Now()
		b.waitEither(t.Context(), ctx)
		if b.wait(ctx) || time.Since(start) != 0 {
			t.Error("waited though the context had ended")
		}
	})
}

func TestSecondAgentIsToldWhy(t *testing.T) {
	b := newBalancer(t, freePort(t))
	cfg := b.config()
	start(t, cfg)
	other := New(cfg, start(t, func() Config { c := b.config(); c.Name, c.Port = "b2", freePort(t); return c }()).log)
	other.dataIP = cfg.DataIP
	if err := other.run(t.Context(), &fakeMachine{}); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("second agent: %v", err)
	}
}
