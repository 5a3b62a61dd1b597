package config

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
)

// Log is the [log] table of the server's and the agent's configuration.
type Log struct {
	Level  string `toml:"level"`  // debug, info, warn or error
	Format string `toml:"format"` // text or json
	File   string `toml:"file"`   // "" is standard error
}

// DefaultLog is what holds where the file says nothing.
func DefaultLog() Log { return Log{Level: "info", Format: "text"} }

// Check validates the table that stands in doc under key.
func (l Log) Check(doc *Document, key string) error {
	var errs []error
	if err := new(slog.Level).UnmarshalText([]byte(l.Level)); err != nil {
		errs = append(errs, doc.Errorf(join(key, "level"), "%q is not a level (debug, info, warn, error)", l.Level))
	}
	if l.Format != "text" && l.Format != "json" {
		errs = append(errs, doc.Errorf(join(key, "format"), "%q is not a format (text, json)", l.Format))
	}
	return errors.Join(errs...)
}

// Open starts the log of a checked table. The sink is never nil.
func (l Log) Open() (*slog.Logger, *LogSink, error) {
	sink := &LogSink{path: l.File, file: os.Stderr}
	if err := sink.Reopen(); err != nil {
		return nil, sink, err
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.Level)); err != nil {
		return nil, sink, errors.Join(err, sink.Close())
	}
	opts := &slog.HandlerOptions{Level: level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(sink, opts)), sink, nil
	}
	return slog.New(slog.NewTextHandler(sink, opts)), sink, nil
}

// LogSink is where log lines go: standard error, or a file that Reopen lets
// logrotate replace. Its methods may be called concurrently.
type LogSink struct {
	path string
	mu   sync.Mutex
	file *os.File
}

func (s *LogSink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.file.Write(p)
}

// Reopen opens the file anew, as on SIGHUP; it keeps the old one when that
// fails. On standard error it does nothing.
func (s *LogSink) Reopen() error {
	if s.path == "" {
		return nil
	}
	f, err := os.OpenFile(s.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("log file: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.file
	s.file = f
	return closeLog(old)
}

// Close closes the file; lines written later go to standard error.
func (s *LogSink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.file
	s.file = os.Stderr
	return closeLog(old)
}

func closeLog(f *os.File) error {
	if f == os.Stderr {
		return nil
	}
	return f.Close()
}
