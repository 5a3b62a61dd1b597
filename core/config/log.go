package config

import (
	"errors"
	"log/slog"
	"os"
)

// Log is the [log] table of the server's and the agent's configuration.
type Log struct {
	Level  string `toml:"level"`  // debug, info, warn or error
	Format string `toml:"format"` // text or json
	File   string `toml:"file"`   // "" is standard error
}

// DefaultLog returns what holds where the file says nothing.
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
	sink := &LogSink{file: os.Stderr}
	if err := sink.Apply(l); err != nil {
		return nil, sink, err
	}
	return slog.New(&logHandler{sink: sink}), sink, nil
}
