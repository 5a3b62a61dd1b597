package registry

import (
	"container/list"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// maxSilence is how long a connection may be silent before its REGISTER when
// others need its place. A good agent sends REGISTER as it connects.
const maxSilence = time.Second

var (
	errSourceFull = errors.New("too many unregistered sessions from its address")
	errFull       = errors.New("too many unregistered sessions")
)

// connLimiter bounds the sessions that are not registered. Only a silent one
// makes room for another, the longest silent first; never one whose sanity
// check is under way, so that agents that come together do not evict each other.
type connLimiter struct {
	mu      sync.Mutex
	present map[*session]*conn
	sources map[netip.Addr]*source
	silent  list.List // of *conn, the longest silent first
	waiting int       // not registered
}

// source is an address with unregistered sessions.
type source struct {
	silent  list.List // of *conn, as above
	waiting int
}

// conn is what the limiter keeps of a session.
type conn struct {
	s          *session
	source     *source // nil: registered
	since      time.Time
	inAll, own *list.Element // nil: its sanity check is under way
}

func (c *connLimiter) init() {
	c.present, c.sources = map[*session]*conn{}, map[netip.Addr]*source{}
}

// enter takes a session in. It returns the one that has to go for it, if any.
func (c *connLimiter) enter(s *session, limits *Limits, now time.Time) (evicted *session, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	src := c.sources[s.peer.Addr()]
	if src == nil {
		src = &source{}
	}
	switch {
	case src.waiting >= limits.PerAddress:
		evicted, err = c.evict(&src.silent, now), errSourceFull
	case c.waiting >= limits.Connections:
		evicted, err = c.evict(&c.silent, now), errFull
	}
	if evicted == nil && err != nil {
		return nil, err
	}
	c.sources[s.peer.Addr()] = src
	n := &conn{s: s, source: src}
	c.present[s] = n
	src.waiting++
	c.waiting++
	c.setSilent(n, now)
	return evicted, nil
}

// evict takes the longest silent session of a list out, nil if none has been
// silent for long.
func (c *connLimiter) evict(silent *list.List, now time.Time) *session {
	front := silent.Front()
	if front == nil {
		return nil
	}
	n := front.Value.(*conn)
	if now.Sub(n.since) < maxSilence {
		return nil
	}
	c.forget(n)
	return n.s
}

// heard notes a line of a session that is not registered and whether its sanity
// check is under way.
func (c *connLimiter) heard(s *session, proving bool, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.present[s]
	if n == nil || n.source == nil {
		return
	}
	c.unlist(n)
	if !proving {
		c.setSilent(n, now)
	}
}

// registered keeps s from being counted and evicted.
func (c *connLimiter) registered(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.present[s]; n != nil {
		c.forget(n)
	}
}

func (c *connLimiter) leave(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.present[s]; n != nil {
		c.forget(n)
		delete(c.present, s)
	}
}

// all returns the sessions that there are.
func (c *connLimiter) all() []*session {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.present))
}

func (c *connLimiter) setSilent(n *conn, now time.Time) {
	n.since = now
	n.inAll, n.own = c.silent.PushBack(n), n.source.silent.PushBack(n)
}

func (c *connLimiter) unlist(n *conn) {
	if n.inAll != nil {
		c.silent.Remove(n.inAll)
		n.source.silent.Remove(n.own)
		n.inAll, n.own = nil, nil
	}
}

// forget ends the counting of n as unregistered.
func (c *connLimiter) forget(n *conn) {
	if n.source == nil {
		return
	}
	c.unlist(n)
	c.waiting--
	if n.source.waiting--; n.source.waiting == 0 {
		delete(c.sources, n.s.peer.Addr())
	}
	n.source = nil
}
