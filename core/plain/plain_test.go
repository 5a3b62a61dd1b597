package plain_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"github.com/caplance/caplance/core/plain"
)

func ExampleWriter() {
	w := plain.Writer{W: os.Stdout}
	fmt.Fprintln(w, "backend \x1b[2Jb1\tis\u202e up")
	fmt.Fprintln(w, plain.Name("b1"), plain.Name("b1\nb2"))
	// Output:
	// backend \u001b[2Jb1	is\u202e up
	// b1 "b1\nb2"
}

func TestName(t *testing.T) {
	for name, want := range map[string]string{
		"hash": "hash", "größe": "größe", "/etc/a.wasm": "/etc/a.wasm", "": `""`, "a b": `"a b"`, "a\nb": `"a\nb"`,
		"\x1b[31m": `"\x1b[31m"`, "\u009b31m": `"\u009b31m"`, "\xff": `"\xff"`, `"a"`: `"\"a\""`, "\u202ea": `"\u202ea"`,
	} {
		if got := plain.Name(name); got != want {
			t.Errorf("%q is shown as %s, want %s", name, got, want)
		}
	}
}

// JSON with everything in a name stays JSON, and the name the same.
func TestWriterKeepsJSON(t *testing.T) {
	name := "\x1b\x7f\u009b\u202e\U000e0001\ufeff\u00a0 é世\U0001f600\n"
	var out bytes.Buffer
	if err := json.NewEncoder(plain.Writer{W: &out}).Encode(name); err != nil {
		t.Fatal(err)
	}
	var got string
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || got != name {
		t.Errorf("%s is read as %q, %v", out.Bytes(), got, err)
	}
	if bytes.ContainsAny(out.Bytes(), "\x1b\x7f\u009b\u202e") {
		t.Errorf("%q reaches the terminal", out.Bytes())
	}
}

func TestWriterCounts(t *testing.T) {
	var out bytes.Buffer
	if n, err := (plain.Writer{W: &out}).Write([]byte("a\xff\x00")); n != 3 || err != nil || out.String() != "a\ufffd\\u0000" {
		t.Errorf("%d, %v, %q", n, err, out.String())
	}
}
