package registry

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/caplance/caplance/core"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a registry whose network is in memory and whose datagrams all
// arrive.
type world struct {
	t      *testing.T
	r      *Registry
	ctx    context.Context
	active atomic.Int64 // flows of every backend
	dead   atomic.Bool  // datagrams are swallowed

	mu        sync.Mutex
	datagrams []string // "10.0.0.11 SANITY …"
	pool      []core.Backend
	calls     int
	changing  atomic.Bool
}

// bubble runs f in a synctest bubble with a world whose clock runs.
func bubble(t *testing.T, f func(*testing.T, *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, cancel := context.WithCancel(t.Context())
		w.ctx = ctx
		w.r.wg.Go(func() { w.r.keepTime(ctx) })
		defer w.r.wg.Wait()
		defer cancel()
		f(t, w)
	})
}

func newWorld(t *testing.T) *world {
	w := &world{t: t}
	w.r = New(Config{
		Addr:          netip.MustParseAddrPort("127.0.0.1:0"),
		Agents:        []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		ReadTimeout:   30 * time.Second,
		WriteTimeout:  10 * time.Second,
		SanityTimeout: 3 * time.Second,
		DrainTimeout:  time.Minute,
		Services:      []string{"web", "dns"},
		Sanity:        w.sanity,
		Active:        func(string) int { return int(w.active.Load()) },
		OnChange:      w.onChange,
		Offer: func(core.Backend) Offer {
			return Offer{
				VIPs:      []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
				MTU:       1472,
				Balancers: []netip.Addr{netip.MustParseAddr("10.0.0.1")},
			}
		},
		Log: slog.New(slog.DiscardHandler),
	})
	return w
}

func (w *world) sanity(to netip.Addr, datagram []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.dead.Load() {
		w.datagrams = append(w.datagrams, to.String()+" "+string(datagram))
	}
	return nil
}

func (w *world) onChange(list []core.Backend) {
	if !w.changing.CompareAndSwap(false, true) {
		w.t.Error("OnChange is running already")
	}
	defer w.changing.Store(false)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pool, w.calls = list, w.calls+1
}

// seen is the pool as OnChange tells it: "web1 active, web2 lost".
func (w *world) seen() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	words := make([]string, len(w.pool))
	for i, b := range w.pool {
		words[i] = fmt.Sprint(b.Name, " ", b.State)
	}
	return strings.Join(words, ", ")
}

func (w *world) backend(name string) core.Backend {
	for _, b := range w.r.Backends() {
		if b.Name == name {
			return b
		}
	}
	w.t.Fatalf("no backend %s", name)
	return core.Backend{}
}

// peer is the agent's end of a session.
type peer struct {
	*TCPCommunicator
	w    *world
	conn net.Conn
}

// connect opens a session over an in-memory connection.
func (w *world) connect() *peer {
	w.t.Helper()
	here, there := net.Pipe()
	comm := NewTCPCommunicator(there, w.r.cfg.ReadTimeout, w.r.cfg.WriteTimeout)
	w.r.wg.Go(func() { w.r.serve(w.ctx, comm, netip.MustParseAddrPort("127.0.0.1:9")) })
	p := &peer{TCPCommunicator: NewTCPCommunicator(here, time.Hour, time.Second), w: w, conn: here}
	p.Limit = MaxReply
	return p
}

func (p *peer) send(line string) {
	p.w.t.Helper()
	if err := p.WriteLine(line); err != nil {
		p.w.t.Fatalf("sending %q: %v", line, err)
	}
	synctest.Wait()
}

func (p *peer) expect(want string) {
	p.w.t.Helper()
	got, err := p.ReadLine()
	if err != nil || !strings.HasPrefix(got, want) {
		p.w.t.Fatalf("got %q, %v, want %q", got, err, want)
	}
	synctest.Wait()
}

func (p *peer) ask(line, want string) {
	p.w.t.Helper()
	p.send(line)
	p.expect(want)
}

// hangUp closes the connection and lets the registry see it.
func (p *peer) hangUp() {
	p.Close()
	synctest.Wait()
}

// nonce takes the last datagram, which must have gone to addr.
func (w *world) nonce(addr string) string {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.datagrams) == 0 {
		w.t.Fatal("no sanity datagram was sent")
	}
	last := w.datagrams[len(w.datagrams)-1]
	nonce, ok := strings.CutPrefix(last, addr+" SANITY ")
	if !ok {
		w.t.Fatalf("datagram %q, want one to %s", last, addr)
	}
	return nonce
}

// join opens a session and registers.
func (w *world) join(name, addr, options string) *peer {
	w.t.Helper()
	p := w.connect()
	p.send(strings.TrimSpace("REGISTER " + name + " " + addr + " " + options))
	p.ask("SANE "+w.nonce(addr), "REGISTERED "+name+" "+addr)
	return p
}
