package registry

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caplance/caplance/core/protocol"
)

// run starts the testbed's registry on the loopback.
func (w *testbed) run() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error)
	go func() { done <- w.r.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	select {
	case <-w.r.Ready():
	case err := <-done:
		w.t.Fatal(err)
	}
}

func (w *testbed) dial() *peer {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.r.Addr().String())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	return &peer{TCPCommunicator: protocol.NewTCPCommunicator(conn, 10*time.Second, 10*time.Second), w: w, conn: conn}
}

// line is ReadLine for tests outside of a bubble.
func (p *peer) line(want string) {
	p.w.t.Helper()
	if got, err := p.ReadLine(); err != nil || !strings.HasPrefix(got, want) {
		p.w.t.Fatalf("got %q, %v, want %q", got, err, want)
	}
}

func (w *testbed) register(name string) *peer {
	w.t.Helper()
	sent := make(chan string, 1)
	w.r.cfg.Sanity = func(_ netip.Addr, d []byte) error {
		select {
		case sent <- strings.TrimPrefix(string(d), "SANITY "):
		default: // only the first one is asked for
		}
		return nil
	}
	p := w.dial()
	p.WriteLine("REGISTER " + name + " 127.0.0.1")
	p.WriteLine("SANE " + <-sent)
	p.line("REGISTERED " + name)
	return p
}

func TestFloodDisturbsNobody(t *testing.T) {
	w := newTestbed(t)
	w.run()
	good := w.register("web1")
	var wg sync.WaitGroup
	for i, junk := range []string{"X\n", "X\nX\nX\nX\n", "\x00\xff\n", strings.Repeat("y", 4096), "half a line", "", "SANE 1\n", "REGISTER b 10.0.0.1\n"} {
		wg.Go(func() {
			for range 100 {
				conn, err := net.Dial("tcp", w.r.Addr().String())
				if err != nil {
					t.Error(err)
					return
				}
				io.WriteString(conn, junk)
				if i%2 == 0 {
					conn.Close()
				} else {
					t.Cleanup(func() { conn.Close() })
				}
			}
		})
	}
	for range 50 {
		good.WriteLine("HEALTH 200")
		good.line("HEALTHACK 200")
	}
	wg.Wait()
	w.r.conns.mu.Lock()
	waiting := w.r.conns.waiting
	w.r.conns.mu.Unlock()
	if waiting > DefaultLimits.PerAddress {
		t.Errorf("%d connections wait, at most %d may from one address", waiting, DefaultLimits.PerAddress)
	}
	good.WriteLine("PAUSE")
	good.line("PAUSED web1")
}

func TestStrangersAreHungUpOn(t *testing.T) {
	w := newTestbed(t)
	var log bytes.Buffer
	set := testSettings()
	set.Agents = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	w.r.Update(set)
	w.r.quiet.log = slog.New(slog.NewTextHandler(&log, nil))
	w.run()
	for range 20 {
		if got, err := w.dial().ReadLine(); err == nil {
			t.Errorf("a stranger was told %q", got)
		}
	}
	w.r.quiet.mu.Lock()
	defer w.r.quiet.mu.Unlock()
	if n := strings.Count(log.String(), "peer refused"); n < 1 || n > 3 {
		t.Errorf("20 refusals made %d log lines:\n%s", n, &log)
	}
}

func TestAddressInUse(t *testing.T) {
	w := newTestbed(t)
	w.run()
	other := newTestbed(t)
	other.r.cfg.Addr = w.r.Addr()
	if err := other.r.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("second registry: %v", err)
	}
}

// A message is logged once a second for each address and what it is about, five times
// for each network, and then how often it was not.
func TestLogLimiter(t *testing.T) {
	l, now := &logLimiter{}, time.Now()
	one, neighbour, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.200"), netip.MustParseAddr("2001:db8::1")
	for i, tt := range []struct {
		after    time.Duration
		from     netip.Addr
		about    string
		unlogged int
		ok       bool
	}{
		{0, one, "b1", 0, true},
		{0, one, "b1", 0, false},
		{0, neighbour, "b1", 0, true},
		{0, one, "b2", 0, true},
		{0, one, "b3", 0, true},
		{0, one, "b4", 0, true},
		{0, one, "b5", 0, false},  // enough of this network
		{0, other, "b1", 1, true}, // one that no key remembers
		{0, netip.Addr{}, "b1", 0, true},
		{time.Second, other, "b1", 0, true},
		{0, one, "b1", 1, true},
	} {
		now = now.Add(tt.after)
		if n, ok := l.take(logKey{"refused", tt.from, tt.about}, now); n != tt.unlogged || ok != tt.ok {
			t.Errorf("message %d: %d unlogged, %v; want %d, %v", i, n, ok, tt.unlogged, tt.ok)
		}
	}
	logged := 0
	for i := range 5000 { // a botnet
		if _, ok := l.take(logKey{"refused", netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), ""}, now); ok {
			logged++
		}
	}
	if logged > maxLogLines || len(l.keys) > maxLogKeys {
		t.Errorf("%d lines in a second, %d keys", logged, len(l.keys))
	}
	now = now.Add(time.Hour)
	l.take(logKey{"refused", one, ""}, now)
	if len(l.keys) > 2 {
		t.Errorf("%d keys are kept", len(l.keys))
	}
}
