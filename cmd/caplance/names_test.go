package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/recording"
	"github.com/caplance/caplance/plugins/workbench/trial"
)

// What strangers' files have for names does not reach the terminal as it is.
func TestNamesAreNoEscapeSequences(t *testing.T) {
	const clear = "\x1b[2J"
	dir := t.TempDir()
	path := func(name string, contents []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, contents, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	module, err := os.ReadFile("../../plugins/host/testdata/foreign-import.wasm")
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	w, err := recording.NewWriter(&file, recording.Header{Service: "web" + clear, Policy: clear, Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	backends := trial.Backends(2)
	backends[0].Name = clear
	f := trial.NewFlows(1).Next()
	w.Pick(0, trial.NewPools(backends).Build(), &f, 0, core.ByPolicy)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	rec := path("flows.rec", file.Bytes())
	wasm := path("mine.wasm", bytes.ReplaceAll(module, []byte("seed"), []byte(clear)))
	for _, args := range [][]string{
		{"inspect", wasm}, {"check", wasm}, {"bench", wasm}, {"replay", rec, "hash"}, {"replay", "-o", "json", rec, "hash"}, {"replay", rec, wasm},
		{"inspect", filepath.Join(dir, clear+".wasm")},
	} {
		var out bytes.Buffer
		run(t.Context(), env{args: append([]string{"policy"}, args...), stdout: &out, stderr: &out})
		if text := out.String(); strings.Contains(text, "\x1b") || !strings.Contains(text, "[2J") {
			t.Errorf("caplance policy %q prints %q", args, text)
		}
	}
}
