package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/core/packet"
	"github.com/caplance/caplance/core/packet/packettest"
	"github.com/caplance/caplance/e2e/cluster"
	"github.com/caplance/caplance/e2e/topology"
)

// hasty is a balancer that ends flows soon by what it sees of them.
func hasty(backends int) cluster.Options {
	return cluster.Options{
		Backends: backends, Datapath: fmt.Sprintf("[datapath.timeouts]\ntcp = %q\ntcp_fin = %q\ntcp_half_closed = %q\n",
			slow.Time(time.Second), slow.Time(time.Second), slow.Time(time.Second)),
	}
}

// Segments with the client's address from somebody who knows no sequence number
// end no connection: the backend does not take them either.
func TestForgedEndsOfFlows(t *testing.T) {
	c := start(t, hasty(3))
	h := hold(t, c, 12)
	forge := func(l *line, flags uint8) {
		from, to := l.LocalAddr().(*net.TCPAddr).AddrPort(), l.RemoteAddr().(*net.TCPAddr).AddrPort()
		must(t, c.Client.Do(func() error { return sendRaw(packettest.TCPAt(rand.Uint32(), from, to, flags, nil)) }))
	}
	for _, end := range []uint8{packet.RST, packet.FIN | packet.ACK} {
		for _, l := range h.lines {
			forge(l, end)
			forge(l, packet.SYN)
		}
		h.check(t, "forged ends")
	}
	for _, l := range h.lines {
		forge(l, packet.RST)
	}
	time.Sleep(slow.Time(3 * time.Second)) // what the RST would leave of their idle time
	h.check(t, "forged RSTs, then silence")
}

// A connection that is silent for longer than its timeout is kept, and its flow
// goes when it ends.
func TestIdleConnections(t *testing.T) {
	c := start(t, hasty(3))
	h := hold(t, c, 12)
	time.Sleep(slow.Time(5 * time.Second))
	h.check(t, "silence")
	for _, l := range h.lines {
		must(t, l.finish())
	}
	await(t, "the end of all flows", func() error {
		rows, err := c.Control().Flows(t.Context(), api.FlowFilter{})
		if err == nil && len(rows) > 0 {
			err = fmt.Errorf("%d flows, as %+v", len(rows), rows[0])
		}
		return err
	})
}

// The client has said all it has to say; the server answers much later.
func TestHalfClosed(t *testing.T) {
	c := start(t, hasty(3))
	late := halfClose(t, c, 6)
	late.expect(t, "silence")
}

// The same while the backend drains, and while its agent stops: both wait for
// the connections, however quiet.
func TestHalfClosedWhileDraining(t *testing.T) {
	for name, drain := range map[string]func(t *testing.T, b *cluster.Backend) error{
		"drain": func(t *testing.T, b *cluster.Backend) error {
			_, err := b.Call("Drain")
			return err
		},
		"agent's stop": func(_ *testing.T, b *cluster.Backend) error { b.Agent.Signal(unix.SIGTERM); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			c := prepare(t, hasty(2))
			for _, b := range c.Backends {
				b.Config, b.StopTimeout = "stop = \"drain\"\n", 20*time.Second
			}
			must(t, c.StartServer(t.Context()))
			must(t, c.StartAgents(t.Context()))
			late := halfClose(t, c, 6)
			quiet := openLines(t, c, cluster.VIP4, 4)
			for _, b := range c.Backends {
				must(t, drain(t, b))
			}
			late.expect(t, name)
			for _, l := range quiet {
				must(t, l.ping(pingTimeout))
				must(t, l.finish())
			}
		})
	}
}

// lateLines are connections that the client has half-closed.
type lateLines []*line

const lateBy = 4 * time.Second

func halfClose(t *testing.T, c *cluster.Cluster, n int) (late lateLines) {
	t.Helper()
	late = append(openLines(t, c, cluster.VIP4, n/2), openLines(t, c, cluster.VIP6, n-n/2)...)
	for _, l := range late {
		must(t, l.ping(pingTimeout))
		l.SetDeadline(time.Now().Add(slow.Time(30 * time.Second)))
		_, err := fmt.Fprintf(l, "late %v\n", slow.Time(lateBy))
		must(t, err)
		_, err = l.r.ReadString('\n')
		must(t, err)
		must(t, l.Conn.(*net.TCPConn).CloseWrite())
	}
	return late
}

func (late lateLines) expect(t *testing.T, after string) {
	t.Helper()
	for _, l := range late {
		got, err := l.r.ReadString('\n')
		if err != nil || got != "late\n" {
			t.Errorf("%s: flow at %s: %q, %v", after, l.backend, got, err)
		}
		if _, err := l.r.ReadString('\n'); err != io.EOF {
			t.Errorf("%s: flow at %s: %v instead of the end", after, l.backend, err)
		}
	}
}

// The server ends connections by RST, which the balancer does not see, and the
// client uses its ports again. A backend that drains gets none of the new ones,
// nor does one that is paused; all others work at once.
func TestReusedPorts(t *testing.T) {
	c := start(t, cluster.Options{Backends: 2})
	for _, state := range []string{"Drain", "Pause"} {
		ports := map[int]string{}
		for port := 20000; port < 20040; port++ {
			l, err := lineFrom(t, c, port)
			must(t, err)
			must(t, l.reset())
			ports[port] = l.backend
		}
		b := c.Backends[0]
		_, err := b.Call(state)
		must(t, err)
		for port, was := range ports {
			began := time.Now()
			l, err := lineFrom(t, c, port)
			if err != nil {
				t.Errorf("%s: from port %d, before at %s: %v", state, port, was, err)
				continue
			}
			if took := time.Since(began); l.backend != c.Backends[1].Name || took > slow.Promise(700*time.Millisecond) {
				t.Errorf("%s: from port %d, before at %s: at %s after %v", state, port, was, l.backend, took)
			}
			must(t, l.reset())
		}
		_, err = b.Call("Resume")
		must(t, err)
		must(t, c.AwaitActive(t.Context(), 2))
	}
}

// lineFrom opens a connection from one of the client's ports.
func lineFrom(t *testing.T, c *cluster.Cluster, port int) (l *line, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), slow.Time(5*time.Second))
	defer cancel()
	var conn net.Conn
	err = c.Client.Do(func() (err error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{Port: port}}
		conn, err = d.DialContext(ctx, "tcp4", netip.AddrPortFrom(cluster.VIP4, cluster.LinePort).String())
		return err
	})
	if err != nil {
		return nil, err
	}
	return readName(conn)
}

// reset has the backend end the connection by RST.
func (l *line) reset() error {
	defer l.Close()
	l.SetDeadline(time.Now().Add(slow.Time(5 * time.Second)))
	if _, err := io.WriteString(l, "reset\n"); err != nil {
		return err
	}
	if _, err := l.r.ReadString('\n'); err == nil || err == io.EOF {
		return fmt.Errorf("%w instead of a reset", err)
	}
	return nil
}

// What counts as active is what lives at the backends, however connections end.
func TestActiveIsWhatLives(t *testing.T) {
	c := start(t, cluster.Options{Backends: 3, Policy: "least-connections"})
	lines := append(openLines(t, c, cluster.VIP4, 45), openLines(t, c, cluster.VIP6, 45)...)
	for i, l := range lines {
		switch i % 5 {
		case 0:
			must(t, l.reset()) // the balancer does not see it
		case 1:
			must(t, l.finish())
		case 2:
			must(t, l.Conn.(*net.TCPConn).SetLinger(0))
			must(t, l.Close())
		}
	}
	agree := func(what string) {
		t.Helper()
		await(t, what+": active flows to be the connections", func() error {
			rows, err := c.Control().Backends(t.Context())
			active := map[string]int{}
			for _, r := range rows {
				active[r.Name] += int(r.Flows)
			}
			for _, b := range c.Backends {
				if n := b.Lines(); active[b.Name] != n {
					err = errors.Join(err, fmt.Errorf("%s: %d active, %d connections", b.Name, active[b.Name], n))
				}
			}
			return err
		})
	}
	agree("some have ended")
	more := openLines(t, c, cluster.VIP4, 30)
	agree("others have begun")
	for name, n := range byBackend(more) {
		if n == 0 || n > 20 {
			t.Errorf("%s got %d of 30", name, n)
		}
	}
}

// Connections end while nobody watches, for the agent was killed: its successor says
// so. It knows that sockets, not containers, serve the port.
func TestEndsWhileTheAgentIsAway(t *testing.T) {
	c := start(t, cluster.Options{Backends: 2})
	b := c.Backends[0]
	for _, vip := range []netip.Addr{cluster.VIP4, cluster.VIP6} { // where nobody ever connected, an agent cannot tell
		seeEnd(t, c, b, vip)
	}
	held := byBackend(hold(t, c, 40).lines)[b.Name]
	awaitActive(t, c, b, held)
	b.Agent.Kill()
	b.HangUp()
	must(t, b.StartAgent(t.Context()))
	awaitActive(t, c, b, 0)
}

// seeEnd opens connections until one to the backend has ended.
func seeEnd(t *testing.T, c *cluster.Cluster, b *cluster.Backend, vip netip.Addr) {
	t.Helper()
	for range 20 {
		l := openLines(t, c, vip, 1)[0]
		must(t, l.finish())
		if l.backend == b.Name {
			return
		}
	}
	t.Fatalf("%s got none of 20 connections", b.Name)
}

func awaitActive(t *testing.T, c *cluster.Cluster, b *cluster.Backend, want int) {
	t.Helper()
	await(t, fmt.Sprintf("%s to have %d flows", b.Name, want), func() error {
		rows, err := c.Control().Backends(t.Context())
		got := 0
		for _, r := range rows {
			if r.Name == b.Name {
				got += int(r.Flows)
			}
		}
		if err == nil && got != want {
			err = fmt.Errorf("it has %d", got)
		}
		return err
	})
}

// A drain goes on while there are connections, though the balancer has lost their
// flows.
func TestDrainWaitsForLostFlows(t *testing.T) {
	c := start(t, cluster.Options{Backends: 2})
	hold(t, c, 20)
	time.Sleep(slow.Time(300 * time.Millisecond)) // the last, delayed ACKs would make flows again
	c.Server.Kill()
	must(t, unload(t, c))
	must(t, c.StartServer(t.Context()))
	must(t, c.AwaitActive(t.Context(), 2))
	b := c.Backends[0]
	awaitActive(t, c, b, 0)
	_, err := b.Call("Drain")
	must(t, err)
	for begin := time.Now(); time.Since(begin) < 4*time.Second; time.Sleep(100 * time.Millisecond) {
		if s := state(t, c, b.Name); s != "draining" {
			t.Fatalf("it is %s after %v, with %d connections", s, time.Since(begin), b.Lines())
		}
	}
	b.HangUp()
	awaitState(t, c, b.Name, "gone")
}

// Whoever sends two ACKs from each of many addresses that nobody has would fill the
// table of established flows for 15 minutes: their backends know none of these
// connections. What is there stays, and new connections find room.
func TestFloodOfEstablishedFlows(t *testing.T) {
	for name, each := range map[string][]uint8{
		"two ACKs": {packet.ACK, packet.ACK}, "SYN and two ACKs": {packet.SYN, packet.ACK, packet.ACK},
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t, cluster.Options{Backends: 3, Datapath: "flows = 4096", Timeout: "20s"})
			h := hold(t, c, 20)
			for range 2 * len(c.Backends) { // where nobody ever connected, an agent cannot tell
				_, err := httpGet(t, c, cluster.VIP4)
				must(t, err)
			}
			attacker, err := c.Net.Host("attacker")
			must(t, err)
			must(t, c.Switch.Attach(attacker, "eth0", netip.MustParsePrefix("10.77.0.66/24")))
			const segments, rate = 120_000, 30_000
			f := &flood{
				to: [6]byte(linkOf(t, c.LB, c.Link()).HardwareAddr), vip: netip.AddrPortFrom(cluster.VIP4, cluster.HTTPPort),
				each: each, pause: slow.Time(topology.FrameBatch * time.Second / rate),
			}
			over := make(chan error, 1)
			go func() { over <- f.send(attacker, "eth0", segments) }()
			time.Sleep(slow.Time(time.Second))
			for range 20 {
				l, err := openLine(t, c, cluster.VIP4)
				must(t, err)
				t.Cleanup(func() { l.Close() })
				h.lines = append(h.lines, l)
			}
			must(t, <-over)
			h.check(t, "the flood")
			await(t, "the end of the flood's flows", func() error {
				rows, err := c.Control().Flows(t.Context(), api.FlowFilter{})
				rows = slices.DeleteFunc(rows, func(r api.FlowRow) bool { return r.State == "pending" }) // gives way, whenever
				if err == nil && len(rows) > len(h.lines) {
					err = fmt.Errorf("%d flows, the first %+v", len(rows), rows[0])
				}
				return err
			})
		})
	}
}
