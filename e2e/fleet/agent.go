package fleet

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caplance/caplance/core/protocol"
)

// Heartbeat is an agent's default.
const Heartbeat = time.Second

// heldPause is how long an agent waits whose name is held: an agent's first
// back-off.
const heldPause = 200 * time.Millisecond

// Agent is one backend's.
type Agent struct {
	Name     string
	Services []string

	f      *Fleet
	addr   netip.Addr
	nonces chan string
	proofs chan arrival

	mu   sync.Mutex
	conn net.Conn // nil: not connected
	over bool     // it is hung up on purpose
	done chan struct{}
}

// prove hands on a nonce that came through the tunnel.
func (a *Agent) prove(nonce string) {
	select {
	case a.nonces <- nonce:
	default: // it has one
	}
}

// arrival is a datagram that proves the path.
type arrival struct {
	nonce string
	at    time.Time
}

// arrived keeps one for the next HEALTH.
func (a *Agent) arrived(nonce string) {
	select {
	case a.proofs <- arrival{nonce, time.Now()}:
	default: // it has more than it can name
	}
}

// echoes returns those that came since the last HEALTH.
func (a *Agent) echoes() (out []protocol.Echo) {
	for len(out) < protocol.MaxEchoes {
		select {
		case p := <-a.proofs:
			out = append(out, protocol.Echo{Nonce: p.nonce, Held: time.Since(p.at)})
		default:
			return out
		}
	}
	return out
}

// start speaks to the balancer until the connection ends.
func (a *Agent) start(conn net.Conn) {
	a.mu.Lock()
	a.conn, a.over, a.done = conn, false, make(chan struct{})
	a.mu.Unlock()
	a.f.wg.Go(func() {
		defer close(a.done)
		err := a.secure(conn)
		conn.Close()
		a.mu.Lock()
		defer a.mu.Unlock()
		if !a.over {
			a.f.fail(fmt.Errorf("agent %s: %w", a.Name, err))
		}
	})
}

func (a *Agent) hangUp() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.conn != nil {
		a.over = true
		a.conn.Close()
	}
}

// session is what one connection's goroutine knows.
type session struct {
	*Agent
	comm   *protocol.TCPCommunicator
	known  bool // it is registered
	active bool
	offer  uint64
	again  <-chan time.Time // REGISTER; nil: not refused
}

// secure proves the agent's key, where it has to, and serves.
func (a *Agent) secure(conn net.Conn) error {
	if a.f.Secure == nil {
		return a.serve(conn)
	}
	proven, err := a.f.Secure(conn)
	if err != nil {
		return err
	}
	return a.serve(proven)
}

func (a *Agent) serve(conn net.Conn) error {
	s := &session{Agent: a, comm: protocol.NewTCPCommunicator(conn, time.Minute, 10*time.Second)}
	s.comm.Limit = protocol.MaxReply
	defer s.setActive(false)
	for len(a.nonces) > 0 {
		<-a.nonces // of an earlier session
	}
	err := s.register()
	if err != nil {
		return err
	}
	lines, broken := make(chan string), make(chan error, 1)
	stop := make(chan struct{})
	defer close(stop)
	go func() { broken <- s.read(lines, stop) }()
	tick := time.NewTicker(Heartbeat)
	defer tick.Stop()
	for err == nil {
		select {
		case nonce := <-a.nonces:
			err = s.send(protocol.Request{Verb: protocol.Sane, Nonce: nonce})
		case line := <-lines:
			err = s.take(line)
		case <-tick.C:
			if s.known {
				err = s.health()
			}
		case <-s.again:
			err = s.register()
		case err = <-broken:
		}
	}
	return err
}

// read passes lines on until the connection breaks.
func (s *session) read(lines chan<- string, stop <-chan struct{}) error {
	for {
		line, err := s.comm.ReadLine()
		if err != nil {
			return err
		}
		select {
		case lines <- line:
		case <-stop:
			return nil
		}
	}
}

func (s *session) register() error {
	return s.send(protocol.Request{
		Verb: protocol.Register, Name: s.Name, Addr: s.addr, Services: s.Services, Weight: 1, Kernel: true, Version: 2, Offers: true, Proofs: true,
	})
}

func (s *session) health() error {
	return s.send(protocol.Request{Verb: protocol.Health, Code: 200, Offer: s.offer, Load: "0.0", Echoes: s.echoes()})
}

func (s *session) send(r protocol.Request) error { return s.comm.WriteLine(r.String()) }

// take answers a line. What an agent would set up is there at once.
func (s *session) take(line string) error {
	r, err := protocol.ParseReply(line)
	if err != nil {
		return err
	}
	if n, err := strconv.ParseUint(r.Options["offer"], 10, 64); err == nil {
		s.offer = n
	}
	switch r.Verb {
	case protocol.Registered, protocol.Offer:
		s.known = true
		return s.health()
	case protocol.Invalid:
		if strings.HasPrefix(r.Text, "nonce ") {
			return nil // the right one is on its way
		}
		if s.known || s.again != nil {
			break
		}
		// The balancer has not seen the end of the session before.
		s.again = time.After(heldPause)
		return nil
	case protocol.HealthAck:
		s.setActive(r.Options["state"] == "active")
		return nil
	}
	return fmt.Errorf("balancer said %q", line)
}

func (s *session) setActive(now bool) {
	switch {
	case now && !s.active:
		s.f.count(1)
	case !now && s.active:
		s.f.count(-1)
	}
	s.active = now
}
