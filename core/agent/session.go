package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/caplance/caplance/core/protocol"
)

// session is one connection to the balancer. It belongs to the goroutine of reconnect.
type session struct {
	a    *Agent
	comm protocol.Communicator
	peer netip.Addr // the balancer's end

	server string  // its address and port
	ids    *Config // as which it was opened: its credentials, and the balancers'

	lines   chan string
	readErr error // why lines was closed

	ctx      context.Context // of the session
	settling sync.WaitGroup

	awaited     []request // in the order they were sent
	nonce       string    // answered last
	registered  bool
	updates     bool                  // the balancer takes another REGISTER as an update
	offer       offer                 // accepted last
	offersUntil time.Time             // what the OFFERs have taken of the balancer's time
	setting     *setting              // nil: the machine serves it
	ready       uint64                // the number of the newest that it serves, 0: none
	fit         bool                  // the machine has served an offer of this session
	over        bool                  // DEREGISTERED came
	unreachable bool                  // the balancer says so
	refused     map[netip.Addr]string // VIPs of the offer that the machine does not get, and why
	checks      bool                  // it wants to know how services do
	told        map[string]string     // why which are down
	sick        bool                  // the last HEALTH said so
	unreported  <-chan time.Time      // the machine serves an offer, and HEALTH waits for its checks until then
	heartbeats  *time.Timer
	deadline    <-chan time.Time // the end of a drain, or of the last words
	ending      <-chan time.Time // of its certificate; nil: it has none, or that was seen to
	stopping    bool
}

// request is a line whose answer is awaited. done may be nil.
type request struct {
	answer protocol.Verb
	done   func(protocol.Reply, error) error
	sent   time.Time
}

// run connects, registers and serves until the session ends.
func (s *session) run(stop, life context.Context) error {
	ctx, cancel := context.WithTimeout(life, s.a.config().WriteTimeout)
	unstop := context.AfterFunc(stop, cancel)
	s.ids = s.a.config()
	conn, err := s.ids.dial(ctx, s.ids.Server)
	unstop()
	cancel()
	if err != nil {
		return err
	}
	if s.ids.Own != nil {
		id := s.ids.Own.Identity()
		s.a.proven.Store(id)
		defer s.a.proven.Store(nil)
		s.ending = lastTenth(id.Expires())
	}
	s.server = conn.RemoteAddr().String()
	s.peer = conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	comm := protocol.NewTCPCommunicator(conn, unleased+s.a.config().ReadTimeout, s.a.config().WriteTimeout)
	comm.Limit = protocol.MaxReply
	s.comm, s.lines = comm, make(chan string)
	ctx, cancel = context.WithCancel(life)
	done := make(chan struct{})
	go func() { defer close(done); s.read(ctx) }()
	s.ctx = ctx
	defer func() {
		cancel()
		s.comm.Close()
		<-done
		s.settling.Wait()
		s.abandon()
	}()
	if err := s.register(); err != nil {
		return err
	}
	return s.loop(stop, life)
}

// read passes the balancer's lines on.
func (s *session) read(ctx context.Context) {
	defer close(s.lines)
	for {
		line, err := s.comm.ReadLine()
		if err != nil {
			s.readErr = err
			return
		}
		select {
		case s.lines <- line:
		case <-ctx.Done():
			return
		}
	}
}

func (s *session) loop(stop, life context.Context) error {
	s.heartbeats = time.NewTimer(s.interval())
	defer s.heartbeats.Stop()
	stopping := stop.Done()
	for !s.over {
		var err error
		select {
		case line, ok := <-s.lines:
			if !ok {
				return fmt.Errorf("balancer %s: %w", s.peer, s.hint(s.readErr))
			}
			err = s.answer(line)
		case nonce := <-s.a.tunnel.nonces:
			err = s.prove(nonce)
		case <-s.a.prober.Changed():
			err = s.found()
		case <-s.unreported:
			err = s.report()
		case <-s.settled():
			err = s.finish()
		case <-s.a.stirred:
			err = s.report()
		case <-s.judged():
			err = s.rejudged()
		case <-s.heartbeats.C:
			err = errors.Join(s.overdue(), s.heartbeat())
			s.heartbeats.Reset(s.interval())
		case o := <-s.a.ops:
			err = s.command(o)
		case r := <-s.a.reloads:
			err = s.reload(r)
		case <-s.ending:
			err = s.renew()
		case <-stopping:
			stopping = nil
			err = s.beginStop()
		case <-s.deadline:
			err = s.deregister()
		case <-life.Done():
			return life.Err()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// send writes a request and remembers the answer to wait for.
func (s *session) send(req protocol.Request, answer protocol.Verb, done func(protocol.Reply, error) error) error {
	s.awaited = append(s.awaited, request{answer, done, time.Now()})
	return s.comm.WriteLine(req.String())
}

// overdue returns an error when a request has had no answer for as long as a silent
// balancer is waited for: one may still send other lines, and know nothing of this agent.
func (s *session) overdue() error {
	if len(s.awaited) == 0 || time.Since(s.awaited[0].sent) <= unleased+s.a.config().ReadTimeout {
		return nil
	}
	return fmt.Errorf("balancer %s sends lines, and no %s within %s", s.peer, s.awaited[0].answer, unleased+s.a.config().ReadTimeout)
}

// answer matches a line with the oldest request: the balancer answers in order.
// INVALID answers whatever it was.
func (s *session) answer(line string) error {
	reply, err := protocol.ParseReply(line)
	if err != nil {
		return err
	}
	if reply.Verb == protocol.Offer {
		return s.offered(reply)
	}
	refused := reply.Verb == protocol.Invalid
	if len(s.awaited) > 0 && (refused || reply.Verb == s.awaited[0].answer) {
		req := s.awaited[0]
		s.awaited = s.awaited[1:]
		if refused {
			err = fmt.Errorf("balancer %s refused: %s", s.peer, reply.Text)
		}
		if req.done == nil {
			return err
		}
		return req.done(reply, err)
	}
	if refused || reply.Verb == protocol.Deregistered {
		return fmt.Errorf("balancer %s: %s %s", s.peer, reply.Verb, reply.Text)
	}
	s.a.log.Debug("unexpected line from the balancer", "line", line)
	return nil
}

// abandon tells those who still wait that no answer will come.
func (s *session) abandon() {
	for _, req := range s.awaited {
		if req.done != nil {
			req.done(protocol.Reply{}, errors.New("session to the balancer broke"))
		}
	}
}
