package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/auth/authtest"
)

const byCA = "[registry]\nauth = \"ca\"\nca_file = \"/ca\"\ncert_file = \"/c\"\nkey_file = \"/k\"\n" + minimal

func TestCertificates(t *testing.T) {
	cfg := mustParse(t, byCA+`
[[agent]]
name = "db"
san = ["DB.example.org", "spiffe://example.org/db"]
max_names = 3
[[agent]]
name = "web-*"
san = ["*.web.example.org"]
services = ["web"]
[[agent]]
name = "cache-*"
san = ["spiffe://example.org/cache/*"]
`)
	var got []string
	for _, a := range cfg.Known {
		got = append(got, fmt.Sprint(a.Name, a.SANs, a.MaxNames))
	}
	want := []string{"db[db.example.org spiffe://example.org/db] 3", "web-*[*.web.example.org] 1", "cache-*[spiffe://example.org/cache/*] 1"}
	if d := cmp.Diff(want, got); d != "" || cfg.Registry.Certificate != (auth.Files{CA: "/ca", Certificate: "/c", Key: "/k"}) {
		t.Errorf("%+v\n%s", cfg.Registry.Certificate, d)
	}
	if got := mustParse(t, byCA).Doubts(true); len(got) != 1 || !strings.Contains(got[0], "nobody can register, whatever certificate it has") {
		t.Errorf("doubts %v", got)
	}
	next := mustParse(t, byCA+"[[agent]]\nname = \"db\"\nsan = [\"db.example.org\"]\n")
	changes := fmt.Sprint(Diff(cfg, next))
	for _, want := range []string{`agent "web-*": removed, ["*.web.example.org"] (its backends are removed)`, `agent "db".san: ["db.example.org", "spiffe://example.org/db"] → ["db.example.org"]`} {
		if !strings.Contains(changes, want) {
			t.Errorf("%s\nlacks %s", changes, want)
		}
	}
}

func TestCertificatesRefused(t *testing.T) {
	agent := func(name, rest string) string { return "[[agent]]\nname = \"" + name + "\"\n" + rest + "\n" }
	for _, tt := range []struct{ name, in, want string }{
		{"no files", "[registry]\nauth = \"ca\"\n" + minimal, `c.toml:1: registry.ca_file: it is not set, and auth = "ca" takes ca_file, cert_file and key_file`},
		{"files with keys", "[registry]\ncert_file = \"/c\"\n" + minimal, `c.toml:2: registry.cert_file: it is for auth = "ca", and auth is "keys"`},
		{"a relative file", "[registry]\nauth = \"ca\"\nca_file = \"ca\"\n" + minimal, `c.toml:3: registry.ca_file: "ca" is not an absolute path`},
		{"keys", byCA + agent("a", "keys = ["+aKey+"]"), `agent[0].keys: it is for auth = "keys", and auth is "ca": give it san`},
		{"san with keys", minimal + agent("a", `san = ["a.example.org"]`), `agent[0].san: it is for auth = "ca", and auth is "keys"`},
		{"data IPs", "[registry]\nauth = \"ca\"\nallow = [\"10.0.0.0/8\"]\n" + minimal, `registry.allow: it is for auth = "none"`},
		{"nobody", byCA + agent("a", ""), `agent[0].san: 0 names: an agent has one`},
		{"no name", byCA + agent("a", `san = ["10.0.0.1"]`), `agent[0].san[0]: "10.0.0.1" is not a name of certificates: it is an IP address`},
		{"many of one name", byCA + agent("a", `san = ["*.example.org"]`), `agent[0].name: "a" is one agent's name, and san "*.example.org" means many`},
		{"one of many names", byCA + agent("a-*", `san = ["a.example.org"]`), `agent[0].san[0]: "a.example.org" has no *`},
		{"two stars", byCA + agent("*-*", `san = ["*.example.org"]`), `agent[0].name: "*-*" is not 1 to 63 of`},
		{"many of many names", byCA + agent("a-*", "san = [\"*.example.org\"]\nmax_names = 2"), `agent[0].max_names: an agent that a * names has one backend`},
		{"a key of many", minimal + agent("a-*", "keys = ["+aKey+"]"), `agent[0].name: "a-*" has a *, which is for certificates`},
		{"one certificate of two agents", byCA + agent("a", `san = ["a.example.org"]`) + agent("w-*", `san = ["*.example.org"]`), `agent[1].san[0]: "*.example.org" is agent "a"'s "a.example.org", too: it would be both`},
		{"one name of two agents", byCA + agent("web-1", `san = ["a.example.org"]`) + agent("web-*", `san = ["*.example.com"]`), `agent[0].name: agent "web-*" may take this name, too`},
		{"one name of many", byCA + agent("*-b", `san = ["*.example.org"]`) + agent("a-*", `san = ["*.example.com"]`), `agent[0].name: agent "a-*" may take this name, too`},
		{"a family's name", byCA + agent("web", "san = [\"a.example.org\"]\nmax_names = 2") + agent("w*", `san = ["*.example.com"]`), `agent[0].name: agent "w*" may take this name, too`},
		{"a name in a family", byCA + agent("web", "san = [\"a.example.org\"]\nmax_names = 2") + agent("web-*", `san = ["*.example.com"]`), `agent[1].name: agent "web" may take this name, too`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := ParseServer("c.toml", []byte(tt.in)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

// The files are read with the configuration, and what is in them is a change.
func TestLoadCertificate(t *testing.T) {
	dir, ca := t.TempDir(), authtest.NewAuthority("ca")
	file := filepath.Join(dir, "c.toml")
	var files auth.Files
	load := func(i *authtest.Issued, more string) (*Server, error) {
		t.Helper()
		var err error
		if files, err = i.Write(dir, "lb", ca); err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("[registry]\nauth = \"ca\"\nca_file = %q\ncert_file = %q\nkey_file = %q\n", files.CA, files.Certificate, files.Key)
		if err := os.WriteFile(file, []byte(text+minimal+more), 0o600); err != nil {
			t.Fatal(err)
		}
		return LoadServer(file)
	}
	first, err := load(ca.Issue("lb.example.org"), "")
	if err != nil {
		t.Fatal(err)
	}
	second, err := load(ca.Issue("lb.example.org"), "")
	if err != nil {
		t.Fatal(err)
	}
	changes := Diff(first, second)
	if len(changes) != 1 || changes[0].Key != "registry.cert_file" || !changes[0].Live || !strings.Contains(changes[0].From, files.Certificate) {
		t.Errorf("another certificate is the changes %v", changes)
	}
	ended, err := load(ca.Issue("lb.example.org", authtest.Valid(-2*time.Hour, -time.Hour)), "")
	if err != nil {
		t.Fatalf("a restart with an expired certificate: %v", err)
	}
	if err := ended.Replaces(first); err == nil || !strings.Contains(err.Error(), "c.toml:4: registry.cert_file: certificate of lb.example.org in "+files.Certificate+" has expired") {
		t.Errorf("it takes the place of a good one: %v", err)
	}
	again, err := LoadServer(file)
	if err != nil || len(again.Expiring()) != 1 || again.Replaces(ended) != nil || !Equal(again, ended) {
		t.Errorf("another reload with it: %v, %v", again.Expiring(), again.Replaces(ended))
	}
	if _, err := load(ca.Issue("lb.example.org"), "[[agent]]\nname = \"*\"\nsan = [\"*.example.org\"]\n"); err == nil || !strings.Contains(err.Error(), `is agent "lb"'s, too: each machine has its own`) {
		t.Errorf("the balancer could be an agent: %v", err)
	}
	if _, err := load(ca.Issue(""), ""); err == nil || !strings.Contains(err.Error(), "c.toml:4: registry.cert_file: "+files.Certificate+": certificate of ") {
		t.Errorf("a certificate without a name: %v", err)
	}
}
