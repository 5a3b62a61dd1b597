package config

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Lists of clients are in the file or in others beside it; another content of these is
// a change.
func TestClientFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	parse := func(more string) (*Server, error) {
		return ParseServer(filepath.Join(dir, "c.toml"), []byte(minimal+more))
	}
	both := "allow = [\"10.0.0.0/8\"]\nallow_file = \"good\"\ndeny_file = \"bad\""
	write("good", "# partners\n192.0.2.0/24 # here\n\n  2001:db8::7\r\n")
	write("bad", "10.1.0.0/16")
	old, err := parse(both)
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]bool{"10.2.0.0": true, "192.0.2.9": true, "2001:db8::7": true, "2001:db8::8": false, "10.1.2.3": false, "198.51.100.1": false} {
		if a := netip.MustParseAddr(addr).As16(); old.Services[0].Clients.Allows(&a) != want {
			t.Errorf("%s is taken: %v", addr, !want)
		}
	}
	write("bad", "10.3.0.0/16")
	next, err := parse(both)
	if err != nil {
		t.Fatal(err)
	}
	changes := Diff(old, next)
	if len(changes) != 1 || changes[0].Key != `service "web".deny_file` || !strings.Contains(changes[0].To, "1 prefixes") {
		t.Errorf("another content: %v", changes)
	}
	for text, want := range map[string]string{
		"10.0.0.0/8\n10.0.0.0/8/8\n": filepath.Join(dir, "good") + `:2: "10.0.0.0/8/8" is not a network`,
		"# nobody\n":                 "lists nobody",
	} {
		write("good", text)
		if _, err := parse(`allow_file = "good"`); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// BenchmarkClientFile reads 100 000 prefixes, as a reload does.
func BenchmarkClientFile(b *testing.B) {
	path := filepath.Join(b.TempDir(), "deny")
	var text strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&text, "%d.%d.%d.0/24\n", 1+i>>16, i>>8&255, i&255)
	}
	if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := ParseServer("c.toml", fmt.Appendf(nil, "%sdeny_file = %q\n", minimal, path)); err != nil {
			b.Fatal(err)
		}
	}
}
