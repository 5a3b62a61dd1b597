package config

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// What is shown means the same as the file, and shows the same once more but for lines.
func TestShow(t *testing.T) {
	example, err := os.ReadFile("../../caplance.example.toml")
	if err != nil {
		t.Fatal(err)
	}
	everything := withStatics + "timeouts.udp = \"3m\"\n[service.policy_config]\nzone = \"a\\\"\\n\\u0007\"\n\"odd key\" = [1, 2.0, true, {x = \"y\"}]\n[[agent]]\nname = \"a\"\nkeys = [" + aKey + "]\n"
	everything = strings.Replace(everything, "timeouts.udp", "icmp_echo = \"never\"\n[service.timeouts]\nudp", 1)
	everything = strings.Replace(everything, "icmp_echo = \"never\"\n", "", 1)
	for name, file := range map[string]string{"example": string(example), "minimal": minimal, "everything": everything, "inline": "registry = {lease = \"4s\"}\n" + minimal} {
		t.Run(name, func(t *testing.T) {
			var shown bytes.Buffer
			if err := ShowServer(&shown, "c.toml", []byte(file)); err != nil {
				t.Fatal(err)
			}
			was := mustParse(t, file)
			now, err := ParseServer("shown.toml", shown.Bytes())
			if err != nil {
				t.Fatalf("%v\n%s", err, shown.String())
			}
			if changes := Diff(was, now); len(changes) > 0 {
				t.Errorf("%v\n%s", changes, shown.String())
			}
		})
	}
}

// Each key says where its value is from.
func TestShowOrigins(t *testing.T) {
	var shown bytes.Buffer
	if err := ShowServer(&shown, "c.toml", []byte("registry = {lease = \"4s\"}\n"+withStatics)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`state_dir = "/run/caplance" # default`, `lease = "4s" # line 1`, `grace = "1s" # default`, `ports = [443, 80] # line 7`, `policy = "hash" # default`,
		`max_upcalls = 50000 # default`, `# seed is not set`, `mode = "tunnel" # line 15`, `path = "/health" # line 21`, `mode = "direct" # default`, `weight = 1 # default`,
	} {
		if got := strings.Join(strings.Fields(shown.String()), " "); !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, shown.String())
		}
	}
	if err := ShowServer(&shown, "c.toml", []byte("x = 1")); err == nil || !strings.Contains(err.Error(), "c.toml:1: x: unknown key") {
		t.Error(err)
	}
}
