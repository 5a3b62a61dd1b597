package host_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/caplance/caplance/plugins/host"
)

// Names that a module brings along do not write control characters or lines of
// their own into messages.
func TestNamesOfModulesAreQuoted(t *testing.T) {
	evil := func(file, name string) []byte {
		wasm := testdata(t, file)
		if !bytes.Contains(wasm, []byte(name)) || len(name) != 4 {
			t.Fatalf("%s has no name %q: this test proves nothing", file, name)
		}
		return bytes.ReplaceAll(wasm, []byte(name), []byte("\x1bc\nz"))
	}
	quoted := func(what, text string) {
		t.Helper()
		if strings.ContainsAny(text, "\x1b\n") || !strings.Contains(text, `"\x1bc\nz"`) {
			t.Errorf("%s is shown as %q", what, text)
		}
	}
	_, err := newRuntime(t).Compile(t.Context(), "mine", evil("foreign-import.wasm", "seed"))
	if err == nil {
		t.Fatal("module was accepted")
	}
	quoted("an import", err.Error())
	s := newScheduler(t, evil("events.wasm", "last"), host.Config{})
	quoted("a metric", s.Stats().Metrics[3].Name)
}
