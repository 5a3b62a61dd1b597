package config

import (
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"github.com/caplance/caplance/core/plain"
)

// LogSink is where log lines go, and how they look: Apply changes that while
// loggers write, Reopen lets logrotate replace the file. Its methods may be
// called concurrently.
type LogSink struct {
	root atomic.Pointer[rootHandler] // what Apply set last

	mu   sync.Mutex
	path string
	file *os.File
}

// rootHandler writes lines in one format from one level on. Its address tells
// it from its successors.
type rootHandler struct{ slog.Handler }

// Apply makes another checked table hold, for the loggers that there are, too.
// On an error all stays as it was. It opens the file only if the table names
// another one.
func (s *LogSink) Apply(l Log) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.Level)); err != nil {
		return fmt.Errorf("log level: %w", err)
	}
	opts := &slog.HandlerOptions{Level: level}
	root := &rootHandler{slog.NewTextHandler(s, opts)}
	if l.Format == "json" {
		// JSON leaves some control characters as they are; the text handler quotes all.
		root.Handler = slog.NewJSONHandler(plain.Writer{W: s}, opts)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.File != s.path {
		if err := s.move(l.File); err != nil {
			return err
		}
	}
	s.root.Store(root)
	return nil
}

// Write writes a line.
func (s *LogSink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.file.Write(p)
}

// Reopen opens the file anew, as on SIGHUP; it keeps the old one when that
// fails. On standard error it does nothing.
func (s *LogSink) Reopen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.move(s.path)
}

// Close closes the file; lines written later go to standard error.
func (s *LogSink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.move("")
}

// move opens the file at path, "" for standard error, and closes the old one.
func (s *LogSink) move(path string) error {
	next := os.Stderr
	if path != "" {
		var err error
		if next, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640); err != nil {
			return fmt.Errorf("log file: %w (does its directory exist, and may this process write there?)", err)
		}
	}
	old := s.file
	s.path, s.file = path, next
	if old != os.Stderr {
		_ = old.Close() // its lines are written, to the page cache at least
	}
	return nil
}
