package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestLogCheck(t *testing.T) {
	doc, err := Decode("x.toml", []byte("[log]\nlevel = 'loud'\nformat = 'xml'"), new(sample))
	if err != nil {
		t.Fatal(err)
	}
	err = Log{Level: "loud", Format: "xml"}.Check(doc, "log")
	for _, want := range []string{`x.toml:2: log.level: "loud"`, `x.toml:3: log.format: "xml"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %s", err, want)
		}
	}
	if err := DefaultLog().Check(doc, "log"); err != nil {
		t.Error(err)
	}
}

func TestLogReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, sink, err := Log{Level: "info", Format: "json", File: path}.Open()
	if err != nil {
		t.Fatal(err)
	}
	l.Info("one")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	l.Info("two")
	if err := sink.Reopen(); err != nil {
		t.Fatal(err)
	}
	l.Info("three")
	l.Debug("not at this level")
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string][]string{path + ".1": {"one", "two"}, path: {"three"}} {
		data, _ := os.ReadFile(file)
		if n := strings.Count(string(data), "\n"); n != len(want) {
			t.Errorf("%s has %d lines, want %d:\n%s", file, n, len(want), data)
		}
		for _, w := range want {
			if !strings.Contains(string(data), `"msg":"`+w+`"`) {
				t.Errorf("%s lacks %q", file, w)
			}
		}
	}
}

func TestLogOpenFails(t *testing.T) {
	if _, _, err := (Log{Level: "info", File: filepath.Join(t.TempDir(), "no", "log")}).Open(); err == nil {
		t.Error("a log in a missing directory was opened")
	}
}

// Loggers made before a change follow it, also those with attributes and groups.
func TestLogApply(t *testing.T) {
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	l, sink, err := Log{Level: "info", Format: "text", File: one}.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	named := l.With("task", "registry").WithGroup("peer").With("addr", "10.0.0.7")
	other := l.With("task", "metrics")
	named.Info("first")
	named.Debug("too quiet")
	if err := sink.Apply(Log{Level: "debug", Format: "json", File: two}); err != nil {
		t.Fatal(err)
	}
	named.Debug("second")
	other.Debug("third")
	if err := sink.Apply(Log{Level: "warn", Format: "json", File: two}); err != nil {
		t.Fatal(err)
	}
	named.Info("too quiet")
	for file, want := range map[string][]string{
		one: {"msg=first task=registry peer.addr=10.0.0.7"},
		two: {`"msg":"second","task":"registry","peer":{"addr":"10.0.0.7"}}`, `"msg":"third","task":"metrics"}`},
	} {
		data, _ := os.ReadFile(file)
		lines := strings.Split(strings.TrimSpace(string(data)), "\n")
		if len(lines) != len(want) {
			t.Fatalf("%s:\n%s", file, data)
		}
		for i, w := range want {
			if !strings.Contains(lines[i], w) {
				t.Errorf("%s lacks %s: %s", file, w, lines[i])
			}
		}
	}
}

// A change that fails changes neither file nor level nor format.
func TestLogApplyIsAllOrNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, sink, err := Log{Level: "info", Format: "text", File: path}.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	for _, bad := range []Log{
		{Level: "debug", Format: "json", File: filepath.Join(path, "below a file")},
		{Level: "loud", Format: "json"},
	} {
		if err := sink.Apply(bad); err == nil {
			t.Errorf("%+v was applied", bad)
		}
	}
	l.Debug("too quiet")
	l.Info("still here")
	if data, _ := os.ReadFile(path); !strings.HasSuffix(string(data), "level=INFO msg=\"still here\"\n") || strings.Count(string(data), "\n") != 1 {
		t.Errorf("%s", data)
	}
}

// Changing and writing at once neither races nor loses a line.
func TestLogApplyWhileWriting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, sink, err := Log{Level: "info", Format: "text", File: path}.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				l.With("a", 1).Info("x")
			}
		})
	}
	for i := range 50 {
		if err := errors.Join(sink.Apply(Log{Level: "info", Format: []string{"text", "json"}[i%2], File: path}), sink.Reopen()); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	if data, _ := os.ReadFile(path); strings.Count(string(data), "\n") != 400 {
		t.Errorf("%d lines of 400", strings.Count(string(data), "\n"))
	}
}

// Nothing that is logged, by whatever name, writes control characters.
func TestLogIsPrintable(t *testing.T) {
	const evil = "\x1b[2J\u009b1m\x7f\u202e\nlevel=ERROR"
	for _, format := range []string{"text", "json"} {
		path := filepath.Join(t.TempDir(), "log")
		l, sink, err := Log{Level: "info", Format: format, File: path}.Open()
		if err != nil {
			t.Fatal(err)
		}
		l.Info("policy "+evil, "err", errors.New(evil), evil, evil)
		if err := sink.Close(); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.ContainsAny(string(text), "\x1b\u009b\x7f\u202e") || strings.Count(string(text), "\n") != 1 {
			t.Errorf("%s: %q", format, text)
		}
	}
}
