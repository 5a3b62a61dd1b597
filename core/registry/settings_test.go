package registry

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// An agent reads PAUSED once the datapath has it, not before; others are not
// held up meanwhile.
func TestAnswerWaitsForTheDatapath(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		p, q := w.join("web1", "10.0.0.11", ""), w.join("web2", "10.0.0.12", "")
		defer p.Close()
		defer q.Close()
		gate := make(chan struct{})
		w.gate = gate
		lines := make(chan string, 1)
		go func() { line, _ := p.ReadLine(); lines <- line }()
		p.send("PAUSE")
		if got := w.seen(); got != "web1 paused, web2 active" {
			t.Errorf("pool is %q", got)
		}
		q.ask("HEALTH 503", "HEALTHACK 200")
		q.ask("HEALTH 200", "HEALTHACK 200")
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if len(lines) > 0 {
			t.Errorf("answered %q before the datapath had the change", <-lines)
		}
		close(gate)
		if got := <-lines; got != "PAUSED web1" || w.waited != 3 {
			t.Errorf("answered %q after waiting for revision %d", got, w.waited)
		}
	})
}

func TestStuckDatapathDelaysByTheWriteTimeout(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		var log bytes.Buffer
		w.r.quiet.log = slog.New(slog.NewTextHandler(&log, nil))
		p := w.join("web1", "10.0.0.11", "")
		defer p.Close()
		w.gate = make(chan struct{})
		start := time.Now()
		p.ask("DRAIN", "DRAINING web1")
		within(t, "answered", time.Since(start), 10*time.Second, 10*time.Second)
		if !strings.Contains(log.String(), "before the datapath has the change") {
			t.Errorf("log:\n%s", &log)
		}
	})
}

// A stop and a handover end the sessions and change nothing: the kernel goes on
// by the lookup tables that it has.
func TestStopChangesNoBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTestbed(t)
		ctx, cancel := context.WithCancel(t.Context())
		w.ctx = ctx
		w.r.wg.Go(func() { w.r.sweepLeases(ctx) })
		for _, name := range []string{"web1", "web2", "web3"} {
			w.join(name, "10.0.0.1"+name[3:], "")
		}
		last := w.connect() // one that is about to be proven
		last.send("REGISTER web4 10.0.0.14")
		calls := w.calls
		cancel()
		w.r.wg.Wait()
		time.Sleep(time.Hour)
		if got := w.seen(); got != "web1 active, web2 active, web3 active" || w.calls != calls {
			t.Errorf("pool is %q after %d calls of Apply", got, w.calls-calls)
		}
		for _, b := range w.r.Backends() {
			if b.State != 0 {
				t.Errorf("%s is %s", b.Name, b.State)
			}
		}
	})
}

func TestUpdateHoldsForRunningSessions(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		p := w.join("web1", "10.0.0.11", "services=web,dns")
		defer p.Close()
		set := testSettings()
		set.PlainLease, set.DrainTimeout, set.Services = 10*time.Second, 5*time.Second, []string{"web"}
		w.r.Update(set)
		p.ask("HEALTH 200", "HEALTHACK 200")
		if b := w.backend("web1"); !b.Serves("web") {
			t.Errorf("backend %+v left its other service", b)
		}
		w.active.Store(1)
		p.ask("DRAIN", "DRAINING web1")
		within(t, "drained", w.until(""), 5*time.Second, 6*time.Second)
		p.ask("RESUME", "RESUMED web1")
		go p.ReadLine()
		within(t, "silent backend gone", w.until(""), 10*time.Second, 11*time.Second)
		q := w.connect()
		defer q.Close()
		q.ask("REGISTER web2 10.0.0.12 services=dns", "INVALID service dns is not configured (there are: web)")
	})
}

func TestUpdateHangsUpOnStrangers(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		p := w.join("web1", "10.0.0.11", "")
		q := w.connect()
		set := testSettings()
		set.Agents = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		w.r.Update(set)
		for _, peer := range []*peer{p, q, w.connect()} {
			if line, err := peer.ReadLine(); err == nil {
				t.Errorf("a stranger was told %q", line)
			}
		}
		synctest.Wait()
		if got := w.seen(); got != "web1 lost" {
			t.Errorf("pool is %q", got)
		}
	})
}

func TestListenTakesThePortBeforeRun(t *testing.T) {
	w := newTestbed(t)
	if err := w.r.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := newTestbed(t)
	other.r.cfg.Addr = w.r.Addr()
	if err := other.r.Listen(t.Context()); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("second registry: %v", err)
	}
	early := w.dial() // served once Run is called
	early.WriteLine("X")
	w.run()
	early.line("INVALID")
	if err := other.r.Close(); err != nil {
		t.Error(err)
	}
	unused := newTestbed(t)
	if err := unused.r.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := unused.r.Close(); err != nil {
		t.Error(err)
	}
}

// The registry moves to other addresses, overlapping ones too, while sessions go
// on; one that is taken leaves it where it was.
func TestMove(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := func(addr string) netip.AddrPort { return netip.MustParseAddrPort(addr) }
	// Connections of other tests in TIME_WAIT at 127.0.0.2 may have a port that is free
	// at 127.0.0.1, but not at 0.0.0.0.
	free, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	r := New(Config{Addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(free.Addr().(*net.TCPAddr).Port)), Settings: Settings{Agents: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, PlainLease: time.Minute, WriteTimeout: time.Minute}, Log: slog.New(slog.DiscardHandler)})
	if err := r.Listen(ctx); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	<-r.Ready()
	dial := func() net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), r.Addr().Port()).String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	first := dial()
	fmt.Fprintln(first, "X")
	if n, err := first.Read(make([]byte, 100)); n == 0 { // it has been accepted
		t.Fatal(err)
	}
	number := r.Addr().Port()
	for _, to := range []string{fmt.Sprintf("0.0.0.0:%d", number), "127.0.0.1:0", "0.0.0.0:0"} {
		if err := r.Move(ctx, port(to)); err != nil {
			t.Fatalf("%s: %v", to, err)
		}
		dial()
	}
	at := r.Addr()
	if err := r.Move(ctx, port(taken.Addr().String())); err == nil || r.Addr() != at {
		t.Errorf("moved to %v: %v", r.Addr(), err)
	}
	dial()
	fmt.Fprintln(first, "HEALTH 200")
	first.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := first.Read(make([]byte, 100)); n == 0 {
		t.Errorf("the first session broke: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
