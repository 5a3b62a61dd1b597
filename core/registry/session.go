package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/protocol"
)

// proveFunc returns who the peer is, once it has proven it.
type proveFunc func(context.Context) (*auth.Identity, error)

// maxInvalid lines in a row close a session.
const maxInvalid = 3

// session is one agent's connection. Its fields belong to the goroutine of
// serve, except where said.
type session struct {
	r    *Registry
	comm protocol.Communicator
	peer netip.AddrPort
	log  *slog.Logger

	joining      atomic.Bool                   // it does; any goroutine
	ended        atomic.Pointer[string]        // why the balancer has hung up; nil: it has not
	joins        func() bool                   // after that: it only wants to join; nil: no
	authenticate proveFunc                     // nil: the peer proves nothing
	id           atomic.Pointer[auth.Identity] // what it has proven; any goroutine
	stopExpiry   func() bool                   // of id
	owner        owner                         // of the backend that it asks for, since REGISTER

	writing sync.Mutex                // orders the lines of serve, prove and push; guards sent
	sent    sent                      // the offer, to a v=2 agent
	seen    time.Time                 // the last line, or the start
	heard   atomic.Pointer[time.Time] // likewise; any goroutine
	active  int                       // flows of its backend, when they were counted
	counted time.Time
	changes bucket
	turns   map[string]*bucket // changes of its services
	reasons pool               // published reasons of services that stay down
	lines   bucket
	invalid int        // lines in a row
	name    string     // "" until registered; then constant
	addr    netip.Addr // then: the data IP

	// The last REGISTER and what proves it.
	req     protocol.Request // after an update: the last one that was accepted
	nonce   string
	proof   context.Context
	unprove context.CancelFunc
	prover  sync.WaitGroup

	lastSanity time.Time // when the last datagram left; belongs to prove

	numbered bool          // the agent reads OFFER; constant once it is registered
	stale    chan struct{} // holds one: the offer may have changed
	pusher   sync.WaitGroup

	proofs proofs
	expiry *time.Timer  // ends a session that does not register
	lease  atomic.Int32 // a leaseKind; any goroutine

	token  string  // proves a second connection; "": the agent tells nothing of its connections
	stream *stream // nil unless this is the second connection of a session
	of     string  // then: the backend's name
}

// serve runs the session until it ends, and returns why.
func (s *session) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	s.unprove = func() {}
	s.hear()
	hangUp := context.AfterFunc(ctx, func() { s.comm.Close() })
	// The lease starts with registration: until then time runs from the start.
	s.expiry = time.AfterFunc(s.r.settings.Load().PlainLease, func() { s.comm.Close() })
	defer func() {
		s.expiry.Stop()
		cancel()
		hangUp()
		s.comm.Close()
		s.r.streams.end(s)
		s.prover.Wait()
		s.pusher.Wait()
	}()
	for {
		line, err := s.comm.ReadLine()
		if err != nil {
			return s.broken(ctx, err)
		}
		s.hear()
		s.slowDown(ctx)
		if s.name == "" {
			s.r.conns.heard(s, s.proving(), s.seen)
		}
		if done, err := s.exchange(ctx, line); err != nil {
			s.r.leases.lost(ctx, s, err)
			return err
		} else if done {
			return nil
		}
		if s.stream != nil {
			return s.talk(ctx)
		}
	}
}

// hear notes that a line came.
func (s *session) hear() {
	now := time.Now()
	s.seen = now
	s.heard.Store(&now)
}

// slowDown waits when lines come too fast: what is not read fills the peer's buffers.
func (s *session) slowDown(ctx context.Context) {
	if d := s.lines.take(s.seen, s.r.settings.Load().Limits.Lines); d > 0 {
		s.r.counted.lines.Add(1)
		sleep(ctx, d)
	}
}

// exchange answers one line; done reports that the session ends with it.
func (s *session) exchange(ctx context.Context, line string) (done bool, err error) {
	reply, done := s.handle(ctx, line)
	if err := ctx.Err(); err != nil {
		return false, err // what is answered now did not happen
	}
	if reply.line != "" {
		err = s.send(ctx, reply)
	}
	if err == nil && s.invalid >= maxInvalid {
		err = fmt.Errorf("%d invalid lines in a row", s.invalid)
	}
	return done, err
}

// broken ends a session that cannot be read any more.
func (s *session) broken(ctx context.Context, err error) error {
	var timeout net.Error
	switch {
	case errors.Is(err, protocol.ErrTooLong) || errors.Is(err, protocol.ErrBinary):
		s.write(protocol.Refuse(err))
	case s.name != "" && errors.As(err, &timeout) && timeout.Timeout():
		s.r.leases.remove(ctx, s)
		s.write(fmt.Sprintf("%s %s lease expired", protocol.Deregistered, s.name))
		return fmt.Errorf("no line for %s: lease expired", time.Since(s.seen).Round(time.Millisecond))
	}
	if why := s.ended.Load(); why != nil {
		err = errors.New(*why)
	}
	s.r.leases.lost(ctx, s, err)
	return err
}

// leaseKind says which lease a session has.
type leaseKind int32

const (
	plain     leaseKind = iota // the agent is not told, or not registered yet
	told                       // it is
	streaming                  // of a second stream
)

// retime makes the settings' timeouts hold from the next line on.
func (s *session) retime() {
	set := s.r.settings.Load()
	s.comm.SetTimeouts(set.lease(leaseKind(s.lease.Load())), set.WriteTimeout)
}

// report logs what became of the session's backend: once a second each, and four at once, for an agent can
// come and go as fast as it likes.
func (s *session) report(level slog.Level, msg string, args ...any) {
	s.r.known.write(level, s.peer.Addr(), s.name, msg, append([]any{"peer", s.peer, "backend", s.name}, args...))
}

func (s *session) write(line string) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.comm.WriteLine(line)
}

// send writes an answer.
func (s *session) send(ctx context.Context, a answer) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.comm.WriteLine(a.line + s.tell(ctx, a.tell))
}

// handle answers one line; done reports that the session ends with the answer.
func (s *session) handle(ctx context.Context, line string) (reply answer, done bool) {
	req, err := protocol.Parse(line)
	if err == nil {
		reply, err = s.do(ctx, req)
	}
	if err != nil {
		if req.Verb != protocol.Sane { // the nonce of another's datagram is not the agent's fault
			s.invalid++
		}
		if req.Verb == protocol.Register {
			s.r.counted.registers.Add(1)
			s.r.quiet.warn(s.peer.Addr(), req.Name, "REGISTER refused", "peer", s.peer, "backend", req.Name, "addr", req.Addr, "err", err)
		}
		return answer{line: protocol.Refuse(err)}, false
	}
	s.invalid = 0
	return reply, req.Verb == protocol.Deregister
}
