package registry

import (
	"log/slog"
	"sync"
	"time"
)

// limiter logs what strangers can cause at most once a second, and then how
// often it was not logged.
type limiter struct {
	log    *slog.Logger
	mu     sync.Mutex
	last   time.Time
	silent int
}

func (l *limiter) warn(msg string, args ...any) {
	l.mu.Lock()
	now := time.Now()
	if now.Sub(l.last) < time.Second {
		l.silent++
		l.mu.Unlock()
		return
	}
	silent := l.silent
	l.last, l.silent = now, 0
	l.mu.Unlock()
	if silent > 0 {
		args = append(args, "unlogged", silent)
	}
	l.log.Warn(msg, args...)
}
