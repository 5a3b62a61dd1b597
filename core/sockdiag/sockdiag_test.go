package sockdiag

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/core/nettest/slow"
)

// pair returns both ends of a connection, and the server's end as the kernel
// names it.
func pair(t *testing.T, listen, dial string) (client, server *net.TCPConn, c Conn) {
	t.Helper()
	lc := net.ListenConfig{}
	address, device, bound := strings.Cut(listen, " at ")
	if bound {
		lc.Control = func(_, _ string, c syscall.RawConn) (err error) {
			return errors.Join(c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), device) }), err)
		}
	}
	l, err := lc.Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	conn, err := net.Dial("tcp", net.JoinHostPort(dial, port))
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); accepted.Close() })
	unmap := func(a net.Addr) netip.AddrPort {
		p := a.(*net.TCPAddr).AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	return conn.(*net.TCPConn), accepted.(*net.TCPConn), Conn{unmap(accepted.LocalAddr()), unmap(accepted.RemoteAddr())}
}

var ways = []struct{ name, listen, dial string }{
	{"IPv4", "127.0.0.1:0", "127.0.0.1"},
	{"IPv6", "[::1]:0", "::1"},
	{"IPv4 at a socket of both", "[::]:0", "127.0.0.1"},
	{"bound to a link", "127.0.0.1:0 at lo", "127.0.0.1"},
}

func TestAsk(t *testing.T) {
	if !nettest.OwnNetNS(t) {
		return
	}
	a, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			client, server, c := pair(t, way.listen, way.dial)
			other := Conn{c.Local, netip.AddrPortFrom(c.Remote.Addr(), 1)}
			nobody := Conn{netip.AddrPortFrom(c.Local.Addr(), 2), c.Remote}
			expect := func(what string, want ...State) {
				t.Helper()
				got, err := a.Ask([]Conn{c, other, nobody})
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(got, append(want, Listening, None)) {
					t.Errorf("%s: %v, want %v, listening and none", what, got, want)
				}
			}
			expect("open", Alive)
			if err := client.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			expect("half-closed", Alive)
			server.Close()
			client.Close()
			expect("closed", Listening)
		})
	}
	many := make([]Conn, 1000)
	for i := range many {
		many[i] = Conn{netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("127.0.0.1:2")}
	}
	if got, err := a.Ask(many); err != nil || len(got) != len(many) {
		t.Errorf("%d answers to %d questions, %v", len(got), len(many), err)
	}
}

func TestWatch(t *testing.T) {
	if !nettest.OwnNetNS(t) {
		return
	}
	w, err := Watch()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan Conn, 100)
	done := make(chan error)
	go func() {
		for {
			conns, err := w.Receive(nil)
			if err != nil && !errors.Is(err, ErrLost) {
				done <- err
				return
			}
			for _, c := range conns {
				ended <- c
			}
		}
	}()
	await := func(what string, want Conn) {
		t.Helper()
		for timeout := time.After(slow.Time(5 * time.Second)); ; {
			select {
			case c := <-ended:
				if c == want {
					return
				}
			case <-timeout:
				t.Fatalf("%s: nothing said of %v", what, want)
			}
		}
	}
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			client, server, c := pair(t, way.listen, way.dial)
			client.Close()
			server.Close()
			await("closed by the client", c)
			client, server, c = pair(t, way.listen, way.dial)
			server.Close()
			client.Close()
			await("closed by the server, which has it in TIME_WAIT", c)
			client, server, c = pair(t, way.listen, way.dial)
			if err := client.SetLinger(0); err != nil {
				t.Fatal(err)
			}
			client.Close()
			if _, err := server.Read(make([]byte, 1)); err == nil {
				t.Error("no reset")
			}
			server.Close()
			await("reset", c)
		})
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err == nil {
		t.Error("Receive went on after Close")
	}
}

// A kernel that does not know a protocol's sockets says so, and not that nobody listens.
func TestListens(t *testing.T) {
	a, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	at := netip.MustParseAddrPort("127.0.0.1:1")
	for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		if there, err := a.Listens(proto, at); there || err != nil {
			t.Errorf("protocol %d at %v: %v, %v", proto, at, there, err)
		}
		a.tells[proto] = false // as if its own had not been found
		if there, err := a.Listens(proto, at); there || !errors.Is(err, ErrNoDiag) {
			t.Errorf("protocol %d on a kernel without: %v, %v", proto, there, err)
		}
	}
}
