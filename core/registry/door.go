package registry

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// maxWaiting connections may be open that have not registered. A good
	// agent registers within milliseconds, so when there are more, the oldest
	// makes room: a flood of silent connections keeps nobody out.
	maxWaiting = 256
	// maxSessions bounds all connections together.
	maxSessions = maxBackends + maxWaiting
)

// door counts who is inside.
type door struct {
	mu      sync.Mutex
	open    int
	waiting map[*session]time.Time // not registered, since when
}

// enter lets s in; it returns the session that has to go for it, if any.
func (d *door) enter(s *session, now time.Time) (evicted *session, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open >= maxSessions {
		return nil, false
	}
	if len(d.waiting) >= maxWaiting {
		for w, since := range d.waiting {
			if evicted == nil || since.Before(d.waiting[evicted]) {
				evicted = w
			}
		}
		delete(d.waiting, evicted)
	}
	d.open++
	d.waiting[s] = now
	return evicted, true
}

// registered keeps s from being evicted.
func (d *door) registered(s *session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.waiting, s)
}

func (d *door) leave(s *session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open--
	delete(d.waiting, s)
}

// accept starts the session of a peer that may have one.
func (r *Registry) accept(ctx context.Context, conn net.Conn) {
	peer := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	peer = netip.AddrPortFrom(peer.Addr().Unmap().WithZone(""), peer.Port())
	if !slices.ContainsFunc(r.cfg.Agents, func(p netip.Prefix) bool { return p.Contains(peer.Addr()) }) {
		conn.Close()
		r.quiet.warn("peer refused: it is in none of the prefixes of agents", "peer", peer)
		return
	}
	comm := NewTCPCommunicator(conn, r.cfg.ReadTimeout, r.cfg.WriteTimeout)
	r.wg.Go(func() { r.serve(ctx, comm, peer) })
}

// serve runs one session over any communicator.
func (r *Registry) serve(ctx context.Context, comm Communicator, peer netip.AddrPort) {
	s := &session{r: r, comm: comm, peer: peer, log: r.cfg.Log.With("peer", peer)}
	evicted, ok := r.door.enter(s, time.Now())
	if !ok {
		comm.Close()
		r.quiet.warn("peer refused: too many sessions", "peer", peer)
		return
	}
	defer r.door.leave(s)
	if evicted != nil {
		evicted.comm.Close()
		r.quiet.warn("session ended unregistered: too many are", "peer", evicted.peer)
	}
	switch err := s.serve(ctx); {
	case ctx.Err() != nil:
	case s.name == "":
		r.quiet.warn("session ended unregistered", "peer", peer, "err", err)
	case err == nil:
		s.log.Info("backend deregistered", "backend", s.name)
	default:
		s.log.Warn("session of a backend broke", "backend", s.name, "err", err)
	}
}
