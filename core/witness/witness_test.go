package witness

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/core/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var vip = netip.MustParseAddr("127.0.0.2")

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", netip.AddrPortFrom(vip, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// bench is a witness and the balancer's end of its stream.
type bench struct {
	t      *testing.T
	w      *Witness
	stream *protocol.TCPCommunicator
	hangUp func() error // ends the stream and returns why it ended
	end    func()       // ends the witness
}

func (b *bench) connect() {
	here, there := net.Pipe()
	b.stream = protocol.NewTCPCommunicator(here, slow.Time(5*time.Second), time.Second)
	done := make(chan error, 1)
	go func() {
		done <- b.w.Talk(b.t.Context(), protocol.NewTCPCommunicator(there, time.Hour, time.Second), time.Hour)
	}()
	b.hangUp = func() error { b.stream.Close(); return <-done }
}

// read returns the next frame with something in it.
func (b *bench) read(want protocol.FrameKind) []protocol.Report {
	b.t.Helper()
	kind, reports, err := b.stream.ReadFrame(nil)
	if err != nil || kind != want {
		b.t.Fatalf("frame of kind %d, %v, want %d", kind, err, want)
	}
	return reports
}

func (b *bench) ask(key protocol.Report) protocol.ConnState {
	b.t.Helper()
	if err := b.stream.WriteFrames(protocol.AppendFrames(nil, protocol.QuestionFrame, []protocol.Report{{Key: key.Key}})); err != nil {
		b.t.Fatal(err)
	}
	return protocol.ConnState(b.read(protocol.AnswerFrame)[0].Value)
}

func newBench(t *testing.T) *bench { return newBenchAt(t, filepath.Join(t.TempDir(), "ports")) }

func newBenchAt(t *testing.T, file string) *bench {
	w, err := Open(file, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	w.SetVIPs([]netip.Addr{vip})
	b := &bench{t: t, w: w, end: sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		w.Close()
	})}
	t.Cleanup(b.end)
	b.connect()
	return b
}

// connection opens one to a listener.
func connection(t *testing.T, l net.Listener) (client, server net.Conn, r protocol.Report) {
	t.Helper()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	vip, from := client.RemoteAddr().(*net.TCPAddr).AddrPort(), client.LocalAddr().(*net.TCPAddr).AddrPort()
	r.Key.Src, r.Key.SrcPort = from.Addr().As16(), from.Port()
	r.Key.Dst, r.Key.DstPort, r.Key.Proto = vip.Addr().As16(), vip.Port(), 6
	return client, server, r
}

func TestWitness(t *testing.T) {
	if !nettest.OwnNetNS(t) {
		return
	}
	b := newBench(t)
	b.read(protocol.LostFrame) // what was before is not known
	l := listen(t)
	other, err := net.Listen("tcp", "127.0.0.3:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	client, server, r := connection(t, other)
	nobody := r
	nobody.Key.SrcPort = 1
	if s := b.ask(nobody); s != protocol.ConnUnknown {
		t.Errorf("a connection to a port without sockets is %d, want unknown", s)
	}
	client.Close()
	server.Close() // it is to no VIP: nobody is told
	client, server, r = connection(t, l)
	nobody = r
	nobody.Key.SrcPort = 1
	if s := b.ask(r); s != protocol.ConnAlive {
		t.Errorf("a connection is %d, want alive", s)
	}
	if s := b.ask(nobody); s != protocol.ConnGone {
		t.Errorf("no connection is %d, want gone", s)
	}
	if err := b.stream.WriteFrames(protocol.AppendFrames(nil, protocol.CensusFrame, nil)); err != nil {
		t.Fatal(err)
	}
	if n := b.read(protocol.CountFrame); len(n) != 1 || n[0].Value != 1 || n[0].Key.DstAddr() != r.Key.DstAddr() {
		t.Errorf("counted %+v, want one at %v", n, r.Key.DstAddr())
	}
	if n := b.read(protocol.CountFrame); len(n) != 0 {
		t.Errorf("%+v instead of the end of the count", n)
	}
	client.Close()
	server.Close()
	told := b.read(protocol.EndedFrame)
	if len(told) != 1 || told[0].Key != r.Key || told[0].Value > uint16(slow.Time(time.Second)/time.Millisecond) {
		t.Errorf("told %+v, want %+v", told, r)
	}
	if s := b.ask(r); s != protocol.ConnGone {
		t.Errorf("a closed connection is %d, want gone", s)
	}
	client, server, r = connection(t, l)
	if err := server.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	server.Close()
	defer client.Close()
	r.Key.SrcPort = 0
	if told = b.read(protocol.EndedFrame); len(told) != 1 || told[0].Key != r.Key {
		t.Errorf("reset by the server: told %+v, want %+v", told, r)
	}
	if err := b.hangUp(); err == nil {
		t.Error("the stream did not end")
	}
}

// More connections than fit end while the stream is down: the newest are told,
// and that there were others.
func TestLost(t *testing.T) {
	if !nettest.OwnNetNS(t) {
		return
	}
	b := newBench(t)
	b.read(protocol.LostFrame)
	b.hangUp()
	l := listen(t)
	b.w.mu.Lock()
	b.w.ended = make([]ended, maxEnded)
	b.w.mu.Unlock()
	client, server, r := connection(t, l)
	client.Close()
	server.Close()
	for deadline := time.Now().Add(slow.Time(5 * time.Second)); ; time.Sleep(time.Millisecond) {
		b.w.mu.Lock()
		n, lost := len(b.w.ended), b.w.lost
		b.w.mu.Unlock()
		if n == maxEnded/2+1 && lost {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d wait, lost %v", n, lost)
		}
	}
	b.connect()
	b.read(protocol.LostFrame)
	var told []protocol.Report
	for len(told) < maxEnded/2+1 {
		told = append(told, b.read(protocol.EndedFrame)...)
	}
	if told[len(told)-1].Key != r.Key {
		t.Error("the newest is not among them")
	}
	b.hangUp()
}

// The successor of a killed agent knows which ports are served here, unless another
// socket listens there since.
func TestMemory(t *testing.T) {
	if !nettest.OwnNetNS(t) {
		return
	}
	file := filepath.Join(t.TempDir(), "ports")
	kept, restarted := listen(t), listen(t)
	first := newBenchAt(t, file)
	first.read(protocol.LostFrame)
	var gone []protocol.Report
	for _, l := range []net.Listener{kept, restarted} {
		client, server, r := connection(t, l)
		if s := first.ask(r); s != protocol.ConnAlive {
			t.Fatalf("a connection is %d, want alive", s)
		}
		first.ask(r) // the answer before it has been written down
		client.Close()
		server.Close()
		first.read(protocol.EndedFrame)
		gone = append(gone, r)
	}
	first.hangUp()
	first.end() // and no Forget: it was killed
	restarted.Close()
	again, err := net.Listen("tcp", restarted.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	second := newBenchAt(t, file)
	second.read(protocol.LostFrame)
	for i, want := range []protocol.ConnState{protocol.ConnGone, protocol.ConnUnknown} {
		if s := second.ask(gone[i]); s != want {
			t.Errorf("connection %d is %d, want %d", i, s, want)
		}
	}
	second.hangUp()
	second.end()
	if err := second.w.Forget(); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(filepath.Dir(file)); len(left) > 0 {
		t.Errorf("%s is left", left[0].Name())
	}
}
