package auth

import (
	"errors"
	"net"
	"sync/atomic"
	"time"
)

const (
	// maxUnproven bytes may come before the other end has proven its key: a
	// handshake is some 3 KB, and crypto/tls gathers up to 256 KB of one.
	maxUnproven = 16 << 10
	// defaultWrite is how long a write may take until somebody sets a deadline.
	defaultWrite = 10 * time.Second
)

// transport is the connection below TLS. Each write on it is bounded: crypto/tls
// answers the other end's KeyUpdate while it reads, and holds a lock meanwhile that
// its Write and Close wait for. One that does not read would stop them for good.
type transport struct {
	net.Conn
	unproven atomic.Int64 // bytes that may still be read; negative: all
	limit    atomic.Int64 // ns that a write may take
}

var errTooMuch = errors.New("handshake is longer than any should be")

func newTransport(conn net.Conn) *transport {
	t := &transport{Conn: conn}
	t.unproven.Store(maxUnproven)
	t.limit.Store(int64(defaultWrite))
	return t
}

// proven lets everything be read.
func (t *transport) proven() { t.unproven.Store(-1) }

func (t *transport) Read(b []byte) (int, error) {
	left := t.unproven.Load()
	if left == 0 {
		return 0, errTooMuch
	}
	if left > 0 {
		b = b[:min(int64(len(b)), left)]
	}
	n, err := t.Conn.Read(b)
	if left > 0 {
		t.unproven.Store(left - int64(n))
	}
	return n, err
}

func (t *transport) Write(b []byte) (int, error) {
	if err := t.Conn.SetWriteDeadline(time.Now().Add(time.Duration(t.limit.Load()))); err != nil {
		return 0, err
	}
	return t.Conn.Write(b)
}

// SetWriteDeadline says how long each write may take from now on.
func (t *transport) SetWriteDeadline(at time.Time) error {
	limit := defaultWrite
	if !at.IsZero() {
		limit = max(0, time.Until(at))
	}
	t.limit.Store(int64(limit))
	return nil
}

// SetDeadline implements net.Conn.
func (t *transport) SetDeadline(at time.Time) error {
	return errors.Join(t.SetReadDeadline(at), t.SetWriteDeadline(at))
}
