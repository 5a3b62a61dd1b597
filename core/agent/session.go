package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/caplance/caplance/core/registry"
)

// session is one connection to the balancer. It belongs to keep's goroutine.
type session struct {
	a    *Agent
	comm registry.Communicator
	peer netip.Addr // the balancer's end

	lines   chan string
	readErr error // why lines was closed

	awaited    []request // in the order they were sent
	nonce      string    // answered last
	strangers  int       // nonces answered that came from elsewhere
	registered bool
	over       bool // DEREGISTERED came
	beat       *time.Timer
	pace       time.Duration    // of heartbeats
	farewell   <-chan time.Time // the end of a drain, or of the last words
	stopping   bool
}

// request is a line whose answer is awaited. done may be nil.
type request struct {
	answer registry.Verb
	done   func(registry.Reply, error) error
}

// run connects, registers and serves until the session ends.
func (s *session) run(stop, life context.Context) error {
	ctx, cancel := context.WithTimeout(life, s.a.cfg.WriteTimeout)
	unstop := context.AfterFunc(stop, cancel)
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.a.cfg.Server)
	unstop()
	cancel()
	if err != nil {
		return err
	}
	s.peer = conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	comm := registry.NewTCPCommunicator(conn, s.a.cfg.ReadTimeout, s.a.cfg.WriteTimeout)
	comm.Limit = registry.MaxReply
	s.comm, s.lines, s.pace = comm, make(chan string), s.a.cfg.Heartbeat
	ctx, cancel = context.WithCancel(life)
	done := make(chan struct{})
	go func() { defer close(done); s.read(ctx) }()
	defer func() {
		cancel()
		s.comm.Close()
		<-done
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
	s.beat = time.NewTimer(s.pace)
	defer s.beat.Stop()
	stopping := stop.Done()
	for !s.over {
		var err error
		select {
		case line, ok := <-s.lines:
			if !ok {
				return fmt.Errorf("balancer %s: %w", s.peer, s.readErr)
			}
			err = s.answer(line)
		case nonce := <-s.a.tunnel.nonces:
			err = s.prove(nonce)
		case s.a.code = <-s.a.checker.codes:
			err = s.heartbeat()
		case <-s.beat.C:
			err = s.heartbeat()
			s.beat.Reset(s.pace)
		case o := <-s.a.ops:
			err = s.order(o)
		case <-stopping:
			stopping = nil
			err = s.leave()
		case <-s.farewell:
			err = s.goodbye()
		case <-life.Done():
			return life.Err()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// setPace changes how often the balancer hears from us, from now on.
func (s *session) setPace(d time.Duration) {
	s.pace = d
	s.beat.Reset(d)
}

// send writes a request and remembers the answer to wait for.
func (s *session) send(req registry.Request, answer registry.Verb, done func(registry.Reply, error) error) error {
	s.awaited = append(s.awaited, request{answer, done})
	return s.comm.WriteLine(req.String())
}

// answer matches a line with the oldest request: the balancer answers in order.
// INVALID answers whatever it was.
func (s *session) answer(line string) error {
	reply, err := registry.ParseReply(line)
	if err != nil {
		return err
	}
	refused := reply.Verb == registry.Invalid
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
	if refused || reply.Verb == registry.Deregistered {
		return fmt.Errorf("balancer %s: %s %s", s.peer, reply.Verb, reply.Text)
	}
	s.a.log.Debug("unexpected line from the balancer", "line", line)
	return nil
}

// abandon tells those who still wait that no answer will come.
func (s *session) abandon() {
	for _, req := range s.awaited {
		if req.done != nil {
			req.done(registry.Reply{}, errors.New("session to the balancer broke"))
		}
	}
}
