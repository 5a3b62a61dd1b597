package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

// run starts the world's registry on the loopback.
func (w *world) run() {
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

func (w *world) dial() *peer {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.r.Addr().String())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	return &peer{TCPCommunicator: NewTCPCommunicator(conn, 10*time.Second, 10*time.Second), w: w, conn: conn}
}

// line is ReadLine for tests outside of a bubble.
func (p *peer) line(want string) {
	p.w.t.Helper()
	if got, err := p.ReadLine(); err != nil || !strings.HasPrefix(got, want) {
		p.w.t.Fatalf("got %q, %v, want %q", got, err, want)
	}
}

func (w *world) register(name string) *peer {
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
	w := newWorld(t)
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
	w.r.door.mu.Lock()
	waiting := len(w.r.door.waiting)
	w.r.door.mu.Unlock()
	if waiting > maxWaiting {
		t.Errorf("%d connections wait, at most %d may", waiting, maxWaiting)
	}
	good.WriteLine("PAUSE")
	good.line("PAUSED web1")
}

func TestStrangersAreHungUpOn(t *testing.T) {
	w := newWorld(t)
	var log bytes.Buffer
	w.r.cfg.Agents = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
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
	w := newWorld(t)
	w.run()
	other := newWorld(t)
	other.r.cfg.Addr = w.r.Addr()
	if err := other.r.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("second registry: %v", err)
	}
}

func TestCommunicatorTimesOut(t *testing.T) {
	here, there := net.Pipe()
	defer there.Close()
	c := NewTCPCommunicator(here, time.Millisecond, time.Millisecond)
	var timeout net.Error
	if _, err := c.ReadLine(); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("read: %v", err)
	}
	if err := c.WriteLine("x"); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("write: %v", err)
	}
	if err := c.WriteLine("a\nb"); !errors.Is(err, ErrBinary) {
		t.Errorf("two lines in one: %v", err)
	}
	if err := errors.Join(c.Close(), c.Close()); err != nil {
		t.Error(err)
	}
}

func TestLimiterSaysWhatItSwallowed(t *testing.T) {
	var log bytes.Buffer
	l := &limiter{log: slog.New(slog.NewTextHandler(&log, nil))}
	l.warn("one")
	l.warn("two")
	l.last = l.last.Add(-time.Second)
	l.warn("three")
	if got := log.String(); !strings.Contains(got, "one") || strings.Contains(got, "two") || !strings.Contains(got, "three unlogged=1") {
		t.Errorf("log:\n%s", got)
	}
}
