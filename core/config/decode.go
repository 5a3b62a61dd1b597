// Package config reads the TOML files of the server and the agent in two
// stages: raw structs that mirror the file, then values that are valid. Every
// finding names file, line and key.
package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// Error is a finding in a configuration file.
type Error struct {
	File string
	Line int    // from 1; 0 when the finding belongs to no line
	Key  string // dotted, "" when the finding belongs to no key
	Err  error
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	if e.Key != "" {
		b.WriteString(": " + e.Key)
	}
	return b.String() + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// Document remembers where the keys of a decoded file stand, so that findings
// about their values can say so.
type Document struct {
	path  string
	lines map[string]int
	tree  map[string]any // as it stands
}

// Path returns the file, "" for a nil Document.
func (d *Document) Path() string {
	if d == nil {
		return ""
	}
	return d.path
}

// Decode reads a TOML file's data into the struct that into points to. Keys
// that the file leaves out keep the values they have there, which is how
// defaults are given. It is strict: a key that the struct lacks or a value of
// another type is an *Error; several are joined. path is for messages only.
func Decode(path string, data []byte, into any) (*Document, error) {
	doc := &Document{path: path, lines: lineIndex(string(data))}
	tree := map[string]any{}
	if _, err := toml.Decode(string(data), &tree); err != nil {
		return nil, doc.syntax(err)
	}
	doc.tree = tree
	if err := doc.check(tree, into); err != nil {
		return nil, err
	}
	if _, err := toml.Decode(string(data), into); err != nil {
		return nil, doc.syntax(err)
	}
	return doc, nil
}

func (d *Document) syntax(err error) error {
	e := &Error{File: d.path, Err: err}
	var p toml.ParseError
	if errors.As(err, &p) {
		e.Line, e.Key, e.Err = p.Position.Line, p.LastKey, errors.New(p.Message)
	}
	return e
}

// Errorf returns a finding about the value at key, written as in "listen" or
// "service[0].vip", tables of an array counted from 0. A key that the file
// leaves out is reported at the table it is missing from.
func (d *Document) Errorf(key, format string, args ...any) error {
	if d == nil { // of values that were not read from a file
		d = &Document{path: "configuration"}
	}
	return &Error{File: d.path, Line: d.Line(key), Key: key, Err: fmt.Errorf(format, args...)}
}

// Line returns where key stands, else where the innermost table around it starts,
// else 0.
func (d *Document) Line(key string) int {
	for {
		if n, ok := d.lines[key]; ok {
			return n
		}
		cut := strings.LastIndexAny(key, ".[")
		if cut < 0 {
			return 0
		}
		key = key[:cut]
	}
}

// Duration parses the value of key, like "30s" or "1m30s", and holds it to the
// closed range from least to most.
func (d *Document) Duration(key, value string, least, most time.Duration) (time.Duration, error) {
	v, err := time.ParseDuration(value)
	if n, wrong := strconv.Atoi(value); err != nil && wrong == nil {
		return 0, d.Errorf(key, "%q has no unit: write \"%ds\"", value, n)
	}
	if err != nil {
		return 0, d.Errorf(key, "%q is not a duration (like \"500ms\", \"30s\" or \"5m\")", value)
	}
	if v < least || v > most {
		return 0, d.Errorf(key, "%s is out of range (%s to %s)", v, least, most)
	}
	return v, nil
}
