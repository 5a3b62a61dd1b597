package host

import (
	"bytes"
	"log/slog"
	"strings"
)

// guestLog takes what a guest writes to its standard output and error: in
// practice the runtime's last words before it gives up. One instance may log
// Limits.LogBytes in its life, the rest is dropped.
type guestLog struct {
	log  *slog.Logger
	left int
}

// Write implements io.Writer and never fails: a guest that cannot log goes on.
func (g *guestLog) Write(b []byte) (int, error) {
	n := min(len(b), g.left)
	g.left -= n
	for line := range bytes.Lines(b[:n]) {
		if s := strings.TrimSpace(string(line)); s != "" {
			g.log.Info("policy says", "text", s)
		}
	}
	return len(b), nil
}
