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
	"github.com/caplance/caplance/core/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testbed is a registry whose network is in memory and whose datagrams all
// arrive.
type testbed struct {
	t      *testing.T
	r      *Registry
	ctx    context.Context
	active atomic.Int64 // flows of every backend
	dead   atomic.Bool  // datagrams are swallowed

	counted atomic.Pointer[time.Time] // before it all flows are counted; nil: all are

	mu        sync.Mutex
	datagrams []string // "10.0.0.11 SANITY …"
	pool      []core.Backend
	calls     int
	offer     Offer
	live      atomic.Int64 // connections that an agent counts
	changing  atomic.Bool
	gate      chan struct{} // holds up Wait until it is closed
	waited    uint64        // the highest revision that was waited for
	told      []string      // "web1 ended 198.51.100.7:40000 192.0.2.1:80 3"
}

// Told implements Connections.
func (w *testbed) Told(backend string, kind protocol.FrameKind, reports []protocol.Report) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(reports) == 0 {
		w.told = append(w.told, fmt.Sprint(backend, " ", frameNames[kind]))
	}
	for i := range reports {
		r := &reports[i]
		w.told = append(w.told, fmt.Sprint(backend, " ", frameNames[kind], " ", r.Key.SrcAddr(), " ", r.Key.DstAddr(), " ", r.Value))
	}
}

var frameNames = map[protocol.FrameKind]string{
	protocol.EndedFrame: "ended", protocol.QuestionFrame: "question", protocol.AnswerFrame: "answer", protocol.LostFrame: "lost",
	protocol.CensusFrame: "census", protocol.CountFrame: "count",
}

// heard returns what agents told since the last call.
func (w *testbed) heard() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := strings.Join(w.told, ", ")
	w.told = nil
	return out
}

// bubble runs f in a synctest bubble with a testbed whose clock runs.
func bubble(t *testing.T, f func(*testing.T, *testbed)) {
	synctest.Test(t, func(t *testing.T) {
		w := newTestbed(t)
		ctx, cancel := context.WithCancel(t.Context())
		w.ctx = ctx
		w.r.wg.Go(func() { w.r.sweepLeases(ctx) })
		defer w.r.wg.Wait()
		defer cancel()
		f(t, w)
	})
}

func newTestbed(t *testing.T) *testbed {
	w := &testbed{t: t, offer: Offer{
		Services: []*core.Service{
			{Name: "web", VIP: netip.MustParseAddr("192.0.2.1"), Protos: []uint8{core.ProtoTCP}, Ports: []core.PortRange{{First: 80, Last: 80}}},
			{Name: "dns", VIP: netip.MustParseAddr("2001:db8::1"), Protos: []uint8{core.ProtoTCP, core.ProtoUDP}, Ports: []core.PortRange{{First: 53, Last: 53}}},
		},
		VIPs:      []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		MTU:       1472,
		Balancers: []netip.Addr{netip.MustParseAddr("10.0.0.1")},
	}}
	w.r = New(Config{
		Addr:        netip.MustParseAddrPort("127.0.0.1:0"),
		Settings:    testSettings(),
		Sanity:      w.sanity,
		Active:      func(core.Backend) int { return int(w.active.Load()) },
		Live:        func(string) int { return int(w.live.Load()) },
		Apply:       w.apply,
		Connections: w,
		Wait:        w.wait,
		CountedAt: func() time.Time {
			if at := w.counted.Load(); at != nil {
				return *at
			}
			return time.Now()
		},
		Offer: func(core.Backend) Offer {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.offer
		},
		Log: slog.New(slog.DiscardHandler),
	})
	return w
}

func testSettings() Settings {
	return Settings{
		Agents:        []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Allow:         []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")},
		Lease:         3 * time.Second,
		Grace:         27 * time.Second,
		PlainLease:    30 * time.Second,
		Rejoin:        30 * time.Second,
		WriteTimeout:  10 * time.Second,
		SanityTimeout: 3 * time.Second,
		DrainTimeout:  time.Minute,
		Services:      []string{"web", "dns"},
	}
}

func (w *testbed) sanity(to netip.Addr, datagram []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.dead.Load() {
		w.datagrams = append(w.datagrams, to.String()+" "+string(datagram))
	}
	return nil
}

func (w *testbed) apply(list []core.Backend) uint64 {
	if !w.changing.CompareAndSwap(false, true) {
		w.t.Error("Apply is running already")
	}
	defer w.changing.Store(false)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pool, w.calls = list, w.calls+1
	return uint64(w.calls)
}

// wait is held up while there is a gate.
func (w *testbed) wait(ctx context.Context, revision uint64) error {
	w.mu.Lock()
	gate := w.gate
	w.waited = max(w.waited, revision)
	w.mu.Unlock()
	if gate == nil {
		return nil
	}
	select {
	case <-gate:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// seen returns the pool as Apply was given it: "web1 active, web2 lost".
func (w *testbed) seen() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	words := make([]string, len(w.pool))
	for i, b := range w.pool {
		words[i] = fmt.Sprint(b.Name, " ", b.State)
	}
	return strings.Join(words, ", ")
}

func (w *testbed) backend(name string) core.Backend {
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
	*protocol.TCPCommunicator
	w    *testbed
	conn net.Conn
}

// connect opens a session over an in-memory connection.
func (w *testbed) connect() *peer {
	w.t.Helper()
	return w.connectBy(nil)
}

// connectBy does so for a peer that proves a key in this way.
func (w *testbed) connectBy(prove proveFunc) *peer {
	w.t.Helper()
	return w.connectAs(func(s *session) { s.authenticate = prove })
}

// connectAs connects a peer whose session is made ready by a function.
func (w *testbed) connectAs(prepare func(*session)) *peer {
	w.t.Helper()
	here, there := net.Pipe()
	comm := protocol.NewTCPCommunicator(there, 30*time.Second, 10*time.Second)
	s := w.r.newSession(comm, netip.MustParseAddrPort("127.0.0.1:9"))
	if prepare(s); w.r.enter(s) {
		w.r.wg.Go(func() { w.r.serve(w.ctx, s) })
	}
	p := &peer{TCPCommunicator: protocol.NewTCPCommunicator(here, time.Hour, time.Second), w: w, conn: here}
	p.Limit = protocol.MaxReply
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

// nonce takes the last sanity datagram, which must have gone to addr.
func (w *testbed) nonce(addr string) string {
	w.t.Helper()
	return w.datagram(addr, "SANITY")
}

// datagram returns the nonce of the last one.
func (w *testbed) datagram(addr, kind string) string {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.datagrams) == 0 {
		w.t.Fatal("no datagram was sent")
	}
	last := w.datagrams[len(w.datagrams)-1]
	nonce, ok := strings.CutPrefix(last, addr+" "+kind+" ")
	nonce, _, _ = strings.Cut(nonce, " ") // a tag
	if !ok {
		w.t.Fatalf("datagram %q, want one to %s", last, addr)
	}
	return nonce
}

// join opens a session and registers.
func (w *testbed) join(name, addr, options string) *peer {
	w.t.Helper()
	p := w.connect()
	p.send(strings.TrimSpace("REGISTER " + name + " " + addr + " " + options))
	p.ask("SANE "+w.nonce(addr), "REGISTERED "+name+" "+addr)
	return p
}
