package agent

import (
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"

	"github.com/caplance/caplance/core/config"
)

// TestExampleFile holds agent.example.toml to the code: every key is in it,
// with its default.
func TestExampleFile(t *testing.T) {
	const path = "../../agent.example.toml"
	if _, err := Load(path); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got raw
	md, err := toml.Decode(string(data), &got)
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range []struct {
		of     reflect.Type
		prefix []string
	}{{reflect.TypeFor[raw](), nil}, {reflect.TypeFor[config.Log](), []string{"log"}}} {
		for f := range typ.of.Fields() {
			if key := append(typ.prefix, f.Tag.Get("toml")); !md.IsDefined(key...) {
				t.Errorf("%s lacks %s", path, strings.Join(key, "."))
			}
		}
	}
	want := defaults()
	want.Server, want.Services, want.VIPs = got.Server, []string{}, []string{}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("defaults of the code (-) and the file (+) differ:\n%s", diff)
	}
}

func TestParseConfig(t *testing.T) {
	c, err := parse("a.toml", []byte(`
server = "lb.example"
name = "b1"
data_ip = "2001:db8::5"
check = "http://127.0.0.1/up"
stop = "deregister"
services = ["web"]
vips = ["192.0.2.1"]`))
	if err != nil {
		t.Fatal(err)
	}
	if c.Server != "lb.example:1338" || c.DataIP != netip.MustParseAddr("2001:db8::5") || c.Drain ||
		c.Check.Path != "/up" || c.Heartbeat != 20*time.Second || c.Port != 1337 || len(c.VIPs) != 1 {
		t.Errorf("%+v", c)
	}
	for in, want := range map[string]string{"::1": "[::1]:1338", "[::1]:5": "[::1]:5", "10.0.0.1": "10.0.0.1:1338", "lb:99": "lb:99"} {
		if c, err := parse("a.toml", []byte("server = '"+in+"'")); err != nil || c.Server != want {
			t.Errorf("server %s became %s, %v, want %s", in, c.Server, err, want)
		}
	}
}

func TestParseConfigRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                    "a.toml: server: the balancer's registry is missing",
		"server = 'lb:0'":     `a.toml:1: server: "lb:0" is not host:port`,
		"name = 'a b'":        "name: ",
		"data_ip = '0.0.0.0'": "data_ip: ",
		"tunnel_port = 0":     "tunnel_port: 0 is out of range (1 to 65535)",
		"weight = 70000":      "weight: 70000 is out of range",
		"services = ['ok', 'not ok']\nserver='x'": `a.toml:1: services[1]: "not ok" is not a service's name`,
		"vips = ['x']":          `vips[0]: "x" is not a unicast IP address`,
		"heartbeat = 'often'":   `heartbeat: "often" is not a duration`,
		"heartbeat = '40s'":     "read_timeout: 30s must be longer than the heartbeat (40s)",
		"check = 'ftp://x'":     "check: ",
		"check = 'tcp://x'":     "check: ",
		"stop = 'now'":          `stop: "now" is not a way to stop (drain, deregister)`,
		"control = 'x.sock'":    "control: ",
		"[log]\nlevel = 'loud'": `a.toml:2: log.level: "loud"`,
		"serve = 'x'":           "a.toml:1: serve: unknown key (allowed here: check,",
	} {
		if _, err := parse("a.toml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v\nwant %s", text, err, want)
		}
	}
}
