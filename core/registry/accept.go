package registry

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/protocol"
)

// accept starts the session of a peer that may have one. It does not block.
func (r *Registry) accept(ctx context.Context, conn net.Conn) {
	peer := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	peer = netip.AddrPortFrom(peer.Addr().Unmap().WithZone(""), peer.Port())
	set := r.settings.Load()
	if !set.admits(peer.Addr()) {
		conn.Close()
		r.quiet.warn(peer.Addr(), "", "peer refused: it is in none of the prefixes of agents", "peer", peer)
		return
	}
	prove, joins := proveFunc(nil), func() bool { return false }
	if set.Own != nil {
		known := func(id *auth.Identity) error { _, err := r.settings.Load().agent(id); return err }
		secure := auth.Server(conn, set.Own, known, r.joinable)
		conn, prove, joins = secure, secure.Prove, secure.Joins
	}
	s := r.newSession(protocol.NewTCPCommunicator(conn, set.lease(plain), set.WriteTimeout), peer)
	s.joins = joins
	if s.authenticate = prove; !r.enter(s) {
		return
	}
	r.wg.Go(func() { r.serve(ctx, s) })
}

func (r *Registry) newSession(comm protocol.Communicator, peer netip.AddrPort) *session {
	return &session{r: r, comm: comm, peer: peer, log: r.cfg.Log.With("peer", peer), stale: make(chan struct{}, 1), stopExpiry: func() bool { return false }}
}

// enter reports whether there is room for s, which it else hangs up on.
func (r *Registry) enter(s *session) bool {
	evicted, err := r.conns.enter(s, &r.settings.Load().Limits, time.Now())
	if err != nil {
		r.counted.connections.Add(1)
		s.comm.Close()
		r.quiet.warn(s.peer.Addr(), "", "peer refused", "peer", s.peer, "err", err)
		return false
	}
	if evicted != nil {
		evicted.comm.Close()
		r.quiet.warn(evicted.peer.Addr(), "", "silent session ended: others need its place", "peer", evicted.peer)
	}
	return true
}

// identify learns who the peer is where it has to prove that, and reports whether it
// did. One whose certificate ends is hung up on.
func (s *session) identify(ctx context.Context) bool {
	if s.authenticate == nil {
		return true
	}
	proof, cancel := context.WithTimeout(ctx, s.r.settings.Load().Limits.Handshake)
	defer cancel()
	id, err := s.authenticate(proof)
	if err == nil {
		s.joining.Store(s.joins != nil && s.joins()) // before its key is judged
		s.id.Store(id)
		if at := id.Expires(); !at.IsZero() {
			expiry := time.AfterFunc(time.Until(at), func() { s.hangUp("its certificate has expired") })
			s.stopExpiry = expiry.Stop
		}
		return true
	}
	s.r.counted.handshakes.Add(1)
	var unknown *auth.UnknownError
	switch {
	case ctx.Err() != nil:
	case errors.As(err, &unknown):
		s.r.quiet.warn(s.peer.Addr(), unknown.String(), "peer refused: no [[agent]] of the balancer lists its "+unknown.Kind(), "peer", s.peer, unknown.Kind(), unknown.String())
	case auth.Refused(err):
		s.r.quiet.warn(s.peer.Addr(), "", "peer refused: it does not know this balancer, whose key belongs into its balancer_keys, or whose certificate's name into its balancer_names and authority into its ca_file", "peer", s.peer)
	default:
		s.r.quiet.warn(s.peer.Addr(), "", "peer refused: it did not prove who it is", "peer", s.peer, "err", err)
	}
	return false
}

// hangUp ends the session for a reason of the balancer's. It may be called by any
// goroutine.
func (s *session) hangUp(why string) {
	s.ended.Store(&why)
	s.comm.Close()
	s.r.quiet.info(s.peer.Addr(), s.peer.String(), "session ended: "+why, "peer", s.peer)
}

// serve runs a session that has entered.
func (r *Registry) serve(ctx context.Context, s *session) {
	defer r.conns.leave(s)
	if !s.identify(ctx) {
		s.comm.Close()
		return
	}
	if s.joining.Load() {
		s.join()
		return
	}
	defer s.stopExpiry()
	set := r.settings.Load() // Update may not have seen s, or who it is
	if why, ok := set.keeps(s.peer.Addr(), s.id.Load()); !ok {
		s.comm.Close()
		r.quiet.warn(s.peer.Addr(), "", "peer refused: "+why, "peer", s.peer)
		return
	}
	s.retime()
	switch err := s.serve(ctx); {
	case ctx.Err() != nil:
	case s.stream != nil:
		s.log.Debug("stream of connections ended", "backend", s.of, "err", err)
	case s.name == "":
		r.quiet.warn(s.peer.Addr(), "", "session ended unregistered", "peer", s.peer, "err", err)
	case err == nil:
		s.report(slog.LevelInfo, "backend deregistered")
	default:
		s.report(slog.LevelWarn, "session of a backend broke", "err", err)
	}
}
