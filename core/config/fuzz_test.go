package config

import (
	"bytes"
	"os"
	"testing"
)

// FuzzParseServer: any text is a configuration or is refused, and what is accepted is
// the same when it is read again, also as ShowServer writes it.
func FuzzParseServer(f *testing.F) {
	example, err := os.ReadFile("../../caplance.example.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(example))
	for _, text := range []string{before, after, "[[agent]]\nname = \"a\"\nkeys = [" + aKey + "]\nmax_names = 3\n" + before, "[registry.limits]\nlines = 0\n", "metrics = \"[::1]:0\"\n", withStatics} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		cfg, err := ParseServer("c.toml", []byte(text))
		if (cfg == nil) == (err == nil) {
			t.Fatalf("%v, %v", cfg, err)
		}
		if err != nil {
			return
		}
		again, err := ParseServer("c.toml", []byte(text))
		if err != nil || !Equal(cfg, again) {
			t.Errorf("read again it is %v, %v", Diff(cfg, again), err)
		}
		var shown bytes.Buffer
		if err := ShowServer(&shown, "c.toml", []byte(text)); err != nil {
			t.Fatal(err)
		}
		if again, err = ParseServer("c.toml", shown.Bytes()); err != nil || !Equal(cfg, again) {
			t.Errorf("as it is shown it is %v:\n%s", err, shown.String())
		}
	})
}
