package config

import (
	"errors"
	"strings"
	"testing"
	"time"
)

type sample struct {
	Listen  string          `toml:"listen"`
	Timeout string          `toml:"timeout"`
	Log     Log             `toml:"log"`
	Service []sampleService `toml:"service"`
}

type sampleService struct {
	Name   string         `toml:"name"`
	Weight uint32         `toml:"weight"`
	Queues int            `toml:"queues"`
	Ports  []any          `toml:"ports"`
	Policy map[string]any `toml:"policy_config"`
	Strict bool           `toml:"strict"`
}

const good = `# a comment with [brackets] and "quotes"
listen = "0.0.0.0:1338"

[log]
level = "debug" # inline

[[service]]
name = "web"
ports = [
  80, # http
  "8000-8080",
]

[service.policy_config]
anything = "goes"
nested.key = 1

[[service]]
name = """
two
lines"""
weight = 3
`

func TestDecode(t *testing.T) {
	got := sample{Timeout: "30s", Log: DefaultLog()}
	doc, err := Decode("x.toml", []byte(good), &got)
	if err != nil {
		t.Fatal(err)
	}
	if got.Timeout != "30s" || got.Log.Format != "text" || got.Log.Level != "debug" || got.Service[1].Weight != 3 {
		t.Errorf("got %+v", got)
	}
	for key, want := range map[string]int{
		"listen": 2, "log": 4, "log.level": 5, "service": 7, "service[0]": 7, "service[0].name": 8, "service[0].ports": 9,
		"service[0].ports[1]": 9, "service[0].policy_config.anything": 15, "service[0].vip": 7,
		"service[1].name": 19, "service[1].weight": 22, "timeout": 0,
	} {
		if n := doc.Line(key); n != want {
			t.Errorf("%s is on line %d, want %d", key, n, want)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"unknown key", "lisen = 'x'", "x.toml:1: lisen: unknown key; did you mean listen? (allowed here: listen, log, service, timeout)"},
		{"case", "\nListen = 'x'", "x.toml:2: Listen: unknown key"},
		{"second table", "[[service]]\nname = 'a'\n[[service]]\nport = 1", "x.toml:4: service[1].port: unknown key; did you mean ports? (allowed in [service]: name, policy_config, ports,"},
		{"string", "listen = 5", "x.toml:1: listen: 5 must be a string"},
		{"integer", "[[service]]\nweight = -1", "x.toml:2: service[0].weight: -1 must be an integer from 0 to 4294967295"},
		{"wide integer", "[[service]]\nqueues = 'a'", `service[0].queues: "a" must be an integer`},
		{"bool", "[[service]]\nstrict = 'yes'", `"yes" must be true or false`},
		{"list", "[[service]]\nports = 80", "service[0].ports: 80 must be a list"},
		{"table", "log = 'x'", `x.toml:1: log: "x" must be a table`},
		{"table for list", "[service]\nname = 'x'", "service: write [[service]]: there may be several"},
		{"syntax", "listen = \n", "x.toml:1: "},
		{"duplicate", "listen = 'a'\nlisten = 'b'", "x.toml:2: listen: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Decode("x.toml", []byte(tt.text), new(sample))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v\nwant one with %s", err, tt.want)
			}
			if !errors.As(err, new(*Error)) {
				t.Errorf("%T holds no *Error", err)
			}
		})
	}
}

func TestDuration(t *testing.T) {
	doc, err := Decode("x.toml", []byte("timeout = '0s'"), new(sample))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := doc.Duration("timeout", "soon", 0, time.Hour); err == nil {
		t.Error("soon is a duration")
	}
	if _, err := doc.Duration("timeout", "0s", time.Second, time.Hour); err == nil ||
		err.Error() != "x.toml:1: timeout: 0s is out of range (1s to 1h0m0s)" {
		t.Error(err)
	}
	if d, err := doc.Duration("timeout", "1m30s", time.Second, time.Hour); err != nil || d != 90*time.Second {
		t.Error(d, err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(good)
	f.Add("a = [[\n'#'\n]] # x\n[b]\n\"c.d\" = '''\n'''")
	f.Fuzz(func(t *testing.T, text string) {
		doc, err := Decode("x.toml", []byte(text), new(sample))
		if err == nil && doc.Line("listen") < 0 {
			t.Error("negative line")
		}
	})
}
