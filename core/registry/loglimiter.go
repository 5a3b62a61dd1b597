package registry

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"
)

const (
	// maxLogKeys messages of different peers are told apart at once.
	maxLogKeys = 1024
	// maxLogLines are logged in a second, of all of them; maxNetLines of what one
	// network causes.
	maxLogLines, maxNetLines = 20, 5
	// maxKnownKeys are told apart of registered agents: some messages of each backend.
	maxKnownKeys = 32768
)

// logLimiter logs what strangers can cause: each message once a second for each
// address and what it is about, some for each network that peers come from, so that
// none of them can silence what is said of others, and then how often it was not
// logged.
type logLimiter struct {
	log    *slog.Logger
	listed bool // only those who are registered cause messages: each has its own once a second, and four at once, however many there are

	mu    sync.Mutex
	keys  map[logKey]*logState
	since time.Time // of the second that lines are counted in
	lines int
	nets  map[netip.Prefix]int // lines
	lost  int                  // messages that no key remembers
}

type logKey struct {
	msg   string
	from  netip.Addr
	about string
}

type logState struct {
	last   time.Time
	bucket bucket // of one who is listed
	silent int
}

// due reports whether the message may be logged again.
func (s *logState) due(listed bool, now time.Time) bool {
	if !listed {
		return now.Sub(s.last) >= time.Second
	}
	return s.bucket.room(now, 1)
}

// warn logs a message that comes from a peer, about one thing or ""; the zero address
// is for what is nobody's.
func (l *logLimiter) warn(from netip.Addr, about, msg string, args ...any) {
	l.write(slog.LevelWarn, from, about, msg, args)
}

// info does so with good news.
func (l *logLimiter) info(from netip.Addr, about, msg string, args ...any) {
	l.write(slog.LevelInfo, from, about, msg, args)
}

func (l *logLimiter) write(level slog.Level, from netip.Addr, about, msg string, args []any) {
	unlogged, ok := l.take(logKey{msg, from, about}, time.Now())
	if !ok {
		return
	}
	if unlogged > 0 {
		args = append(args, "unlogged", unlogged)
	}
	l.log.Log(context.Background(), level, msg, args...)
}

// take reports whether a message may be logged, and how many were not before it.
func (l *logLimiter) take(k logKey, now time.Time) (unlogged int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.since) >= time.Second {
		l.since, l.lines, l.nets = now, 0, map[netip.Prefix]int{}
		for k, s := range l.keys {
			if now.Sub(s.last) >= time.Minute {
				l.lost += s.silent
				delete(l.keys, k)
			}
		}
	}
	s, net := l.keys[k], network(k.from)
	full, most := l.lines >= maxLogLines || l.nets[net] >= maxNetLines, maxLogKeys
	if l.listed {
		full, most = false, maxKnownKeys
	}
	switch {
	case s != nil && (full || !s.due(l.listed, now)):
		s.silent++
		return 0, false
	case s == nil && (full || len(l.keys) >= most):
		l.lost++
		return 0, false
	case s == nil:
		s = &logState{}
		if l.keys == nil {
			l.keys = map[logKey]*logState{}
		}
		l.keys[k] = s
	}
	s.bucket.take(now, 1)
	unlogged = s.silent + l.lost
	s.last, s.silent, l.lost = now, 0, 0
	l.lines++
	l.nets[net]++
	return unlogged, true
}

// network returns the network that is likely to be one party's.
func network(a netip.Addr) netip.Prefix {
	bits := 24
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // the zero one's is the zero prefix
	return p
}
