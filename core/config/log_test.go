package config

import (
	"os"
	"path/filepath"
	"strings"
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
