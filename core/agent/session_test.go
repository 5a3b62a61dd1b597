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
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/control"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/core/probe"
	"github.com/caplance/caplance/core/reconcile"
	"github.com/caplance/caplance/core/registry"
)

// call asks as the ten-line control client of the first generation does.
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
	if got := a.serves(); got != "192.0.2.1,2001:db8::1 at 1400 bytes" {
		t.Errorf("serves %s", got)
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
	if _, err := call(t, a.config().Control, "Drain", ""); err == nil || !strings.Contains(err.Error(), "not registered yet") {
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
	cfg.Checks = []probe.Spec{{
		Service: probe.Whole, Kind: probe.HTTP, Address: page.Listener.Addr().String(), Path: "/", Status: probe.Status{First: 200, Last: 299},
		Interval: 20 * time.Millisecond, Timeout: slow.Time(time.Second), Rise: 2, Fall: 2,
	}}
	start(t, cfg)
	b.until("b1 unhealthy")
	code.Store(http.StatusNoContent)
	b.until("b1 active")
	page.Close()
	b.until("b1 unhealthy")
	if why := b.registry.Backends()[0].Reason; !strings.Contains(why, "http: ") {
		t.Errorf("the balancer knows no reason: %q", why)
	}
}

// A service whose check fails is down at the balancer with its reason, while the
// backend and its other services go on.
func TestServiceDown(t *testing.T) {
	open, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	at := netip.MustParseAddrPort(open.Addr().String())
	b := newBalancer(t, freePort(t))
	serving := func(name string, port uint16) *core.Service {
		return &core.Service{Name: name, VIP: at.Addr(), Protos: []uint8{core.ProtoTCP}, Ports: []core.PortRange{{First: port, Last: port}}}
	}
	b.settings.Services = []string{"web", "dead"}
	b.registry.Update(b.settings)
	b.offer.Services = []*core.Service{serving("web", at.Port()), serving("dead", 1)}
	cfg := b.config()
	cfg.Checks = []probe.Spec{{Kind: probe.Listen, Interval: 20 * time.Millisecond, Timeout: slow.Time(time.Second), Rise: 1, Fall: 1}}
	a := start(t, cfg)
	b.until("b1 active")
	has := func(want string) {
		t.Helper()
		a.eventually(want, func() string {
			return fmt.Sprintf("%v%v", b.registry.Backends()[0].State, b.registry.Backends()[0].Down)
		})
	}
	has("active[{dead listen: nothing listens at 127.0.0.1:1/tcp}]")
	if s, err := control.AgentStatus(t.Context(), cfg.Control); err != nil || s.Healthy || s.Summary != "service dead takes no new flows here: listen: nothing listens at 127.0.0.1:1/tcp" {
		t.Errorf("status %+v, %v", s, err)
	}
	open.Close()
	has(fmt.Sprintf("active[{dead listen: nothing listens at 127.0.0.1:1/tcp} {web listen: nothing listens at %v/tcp}]", at))
	b.mu.Lock()
	b.offer.Services = b.offer.Services[:1]
	b.mu.Unlock()
	b.registry.Offers()
	has(fmt.Sprintf("active[{web listen: nothing listens at %v/tcp}]", at))
	if open, err = net.Listen("tcp", at.String()); err != nil {
		t.Fatal(err)
	}
	has("active[]")
}

func TestVIPsOfTheConfigurationForOldBalancers(t *testing.T) {
	b := newBalancer(t, freePort(t))
	b.offer = registry.Offer{}
	cfg := b.config()
	cfg.VIPs = []netip.Addr{vip4}
	a := start(t, cfg)
	b.until("b1 active")
	if got := a.serves(); got != "192.0.2.1 at 65508 bytes" {
		t.Errorf("serves %s", got)
	}
}

// A backend that cannot serve its VIPs never becomes eligible, and its session
// goes on.
func TestMachineThatFailsIsTriedAgain(t *testing.T) {
	b := newBalancer(t, freePort(t))
	cfg := b.config()
	a := New(cfg, slog.New(slog.DiscardHandler))
	m := &fakeMachine{fail: errors.New("address on lo: no")}
	a.prepare()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- a.run(ctx, m.open) }()
	b.until("b1 unhealthy")
	<-a.Ready()
	for a.loop.Status()[0].Retries < 3 {
		runtime.Gosched()
	}
	if s, err := control.AgentStatus(t.Context(), cfg.Control); err != nil || s.Healthy || s.Targets[0].Error != "address on lo: no" {
		t.Errorf("status %+v, %v", s, err)
	}
	if len(b.pools) > 0 {
		t.Errorf("pool became %q", <-b.pools)
	}
	m.set(nil, nil)
	b.until("b1 active")
	// Later failures are told, too, and so is their end. A new offer may come at
	// any time, and what it finds failing is no drift.
	drift := fmt.Errorf("address is gone: %w", reconcile.ErrDrift)
	m.set(nil, drift)
	a.loop.Kick("")
	for a.loop.Status()[0].Drifts == 0 {
		runtime.Gosched()
	}
	m.set(errors.New("address on lo: no"), drift)
	a.loop.Kick("")
	b.until("b1 unhealthy")
	m.set(nil, nil)
	b.until("b1 active")
	if s, err := control.AgentStatus(t.Context(), cfg.Control); err != nil || !s.Healthy || s.Targets[0].Drifts == 0 || s.State != "Active" {
		t.Errorf("status %+v, %v", s, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Others' sanity datagrams cost nothing, whichever address they come from.
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
			if d := time.Since(start); d < step/8 || d > step {
				t.Errorf("waited %s, want %s to %s", d, step/8, step)
			}
		}
		b.reset()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		start := time.Now()
		New(Config{}, slog.New(slog.DiscardHandler)).backOff(t.Context(), ctx, time.Hour)
		if b.wait(ctx) || time.Since(start) != 0 {
			t.Error("waited though the context had ended")
		}
	})
}

// An agent that fails to start says why, and has not touched the machine.
func TestSecondAgentIsToldWhy(t *testing.T) {
	b := newBalancer(t, freePort(t))
	cfg := b.config()
	first := start(t, cfg)
	b.until("b1 active")
	other := b.config()
	other.Name = "b2"
	for want, cfg := range map[string]Config{"another process answers there": cfg, "address already in use": other} {
		second := New(cfg, first.log)
		second.prepare()
		err := second.run(t.Context(), func() (*machine, error) {
			t.Error("the machine was opened")
			return first.m.open()
		})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("second agent: %v, want %s", err, want)
		}
	}
	mustCall(t, cfg.Control, "GetState", "Active")
}

// A changed offer reaches the agent in the session that there is.
func TestOfferChangesWithoutAnotherSession(t *testing.T) {
	b := newBalancer(t, freePort(t))
	a := start(t, b.config())
	b.until("b1 active")
	vip := netip.MustParseAddr("192.0.2.77")
	b.mu.Lock()
	b.offer = registry.Offer{VIPs: []netip.Addr{vip}, MTU: 1300, Balancers: []netip.Addr{netip.MustParseAddr("127.0.0.7")}}
	b.mu.Unlock()
	b.registry.Offers()
	a.eventually("192.0.2.77 at 1300 bytes", a.serves)
	a.eventually("127.0.0.7, 127.0.0.1", func() string {
		var words []string
		for _, addr := range a.tunnel.allow.Load().balancers {
			words = append(words, addr.String())
		}
		return strings.Join(words, ", ")
	})
	b.mu.Lock()
	b.offer.VIPs = nil
	b.mu.Unlock()
	b.registry.Offers()
	a.eventually(" at 1300 bytes", a.serves)
	for len(b.pools) > 0 { // the VIPs that are acknowledged
		if pool := <-b.pools; pool != "b1 active" {
			t.Errorf("pool changed to %q", pool)
		}
	}
}

// An offer comes without a heartbeat, and is acknowledged once it is set up: a
// VIP that cannot be had holds up no other.
func TestOfferAtOnce(t *testing.T) {
	b := newBalancer(t, freePort(t))
	cfg := b.config()
	b.settings.Lease = 3 * time.Hour // and an hour between two HEALTH
	b.registry.Update(b.settings)
	a := start(t, cfg)
	b.until("b1 active")
	offer := func(vips ...netip.Addr) {
		b.mu.Lock()
		b.offer.VIPs = vips
		b.mu.Unlock()
		b.registry.Offers()
	}
	has := func(want string) {
		t.Helper()
		a.eventually(want, func() string { be := b.registry.Backends()[0]; return fmt.Sprint(be.State, " ", be.VIPs) })
	}
	has("active [192.0.2.1 2001:db8::1]")
	vip := netip.MustParseAddr("192.0.2.77")
	offer(vip4, vip)
	has("active [192.0.2.1 192.0.2.77]")
	a.m.set(errors.New("IPv6 is off"), nil)
	offer(vip4, vip6)
	has("active [192.0.2.1]")
	a.eventually("IPv6 is off", func() string { return a.status().Targets[0].Error })
	has("active [192.0.2.1]")
	a.m.set(nil, nil)
	has("active [192.0.2.1 2001:db8::1]")
}

func TestOfferOfTheBalancersOwnAddressIsRefused(t *testing.T) {
	s := &session{a: New(Config{}, slog.New(slog.DiscardHandler)), peer: netip.MustParseAddr("10.0.0.1")}
	s.offer.vips = []netip.Addr{vip4, s.peer}
	if err := s.setUp(); err == nil || !strings.Contains(err.Error(), "vip 10.0.0.1 is an address of the balancer") {
		t.Errorf("set up: %v", err)
	}
}
