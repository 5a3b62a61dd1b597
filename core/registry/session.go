package registry

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/caplance/caplance/core"
)

// maxInvalid lines in a row close a session.
const maxInvalid = 3

// session is one agent's connection. Its fields belong to the goroutine of
// serve, except where said.
type session struct {
	r    *Registry
	comm Communicator
	peer netip.AddrPort
	log  *slog.Logger

	writing sync.Mutex // orders the lines of serve and of prove
	seen    time.Time  // the last line, or the start
	invalid int        // lines in a row
	name    string     // "" until registered; then constant
	backend core.Backend

	// The last REGISTER and what proves it.
	req     Request
	nonce   string
	proof   context.Context
	unprove context.CancelFunc
	prover  sync.WaitGroup
}

// serve runs the session until it ends, and returns why.
func (s *session) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	s.seen, s.unprove = time.Now(), func() {}
	hangUp := context.AfterFunc(ctx, func() { s.comm.Close() })
	// The lease starts with registration: until then time runs from the start.
	deadline := time.AfterFunc(s.r.cfg.ReadTimeout, func() { s.comm.Close() })
	defer func() {
		deadline.Stop()
		cancel()
		hangUp()
		s.comm.Close()
		s.prover.Wait()
	}()
	for {
		line, err := s.comm.ReadLine()
		if err != nil {
			return s.broken(err)
		}
		s.seen = time.Now()
		reply, done := s.handle(ctx, line)
		if s.name != "" && deadline.Stop() {
			s.r.door.registered(s)
			s.log.Info("backend registered", "backend", s.name, "addr", s.backend.Addr)
		}
		if reply != "" {
			err = s.write(reply)
		}
		if done {
			return nil
		}
		if err == nil && s.invalid >= maxInvalid {
			err = fmt.Errorf("%d invalid lines in a row", s.invalid)
		}
		if err != nil {
			s.r.roster.lost(s)
			return err
		}
	}
}

// broken ends a session that cannot be read any more.
func (s *session) broken(err error) error {
	var timeout net.Error
	switch {
	case errors.Is(err, ErrTooLong) || errors.Is(err, ErrBinary):
		s.write(invalid(err))
	case s.name != "" && errors.As(err, &timeout) && timeout.Timeout():
		s.r.roster.remove(s)
		s.write(fmt.Sprintf("%s %s lease expired", Deregistered, s.name))
		return fmt.Errorf("no line for %s: lease expired", s.r.cfg.ReadTimeout)
	}
	s.r.roster.lost(s)
	return err
}

func (s *session) write(line string) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.comm.WriteLine(line)
}

// invalid keeps to the length that every agent reads.
func invalid(reason error) string {
	line := fmt.Sprintf("%s %v", Invalid, reason)
	if len(line) > MaxRequest {
		line = strings.ToValidUTF8(line[:MaxRequest], "")
	}
	return line
}

// handle answers one line; done says that the session ends with the answer.
func (s *session) handle(ctx context.Context, line string) (reply string, done bool) {
	req, err := Parse(line)
	if err == nil {
		reply, done, err = s.do(ctx, req)
	}
	if err != nil {
		s.invalid++
		return invalid(err), false
	}
	s.invalid = 0
	return reply, done
}

func (s *session) do(ctx context.Context, req Request) (reply string, done bool, err error) {
	switch req.Verb {
	case Register:
		return "", false, s.register(ctx, req)
	case Sane:
		reply, err = s.sane(req.Nonce)
		return reply, false, err
	}
	if s.name == "" {
		return "", false, fmt.Errorf("%s before REGISTER and SANE", req.Verb)
	}
	if req.Name != "" && req.Name != s.name {
		return "", false, fmt.Errorf("name %s is not this session's (%s)", req.Name, s.name)
	}
	answer := func(v Verb) string { return string(v) + " " + s.name }
	switch req.Verb {
	case Health:
		s.r.roster.health(s, req.Code, req.Load)
		return s.healthAck(), false, nil
	case Pause:
		s.r.roster.wish(s, core.Paused)
		return answer(Paused), false, nil
	case Drain:
		s.r.roster.wish(s, core.Draining)
		return answer(Draining), false, nil
	case Resume:
		s.r.roster.wish(s, core.Active)
		return answer(Resumed), false, nil
	default: // Deregister
		s.r.roster.remove(s)
		return answer(Deregistered) + " requested", true, nil
	}
}

func newNonce() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
