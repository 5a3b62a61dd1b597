package config

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/google/go-cmp/cmp"
)

const minimal = `
[[service]]
name = "web"
vip = "192.0.2.10"
`

func TestParseServer(t *testing.T) {
	cfg, err := ParseServer("c.toml", []byte(`
[registry]
listen = "10.0.0.1:1338"
agents = ["10.0.0.7/24"]
read_timeout = "1s"
[[service]]
name = "web"
vip = "192.0.2.10"
protocol = "tcp"
ports = [443, "8000-8080", 80]
policy = "mine/p.wasm"
seed = 42
[service.policy_config]
zone = "a"
[[service]]
name = "dns"
vip = "192.0.2.10"
protocol = "udp"
ports = [443]
`))
	if err != nil {
		t.Fatal(err)
	}
	want := &core.Service{
		Name: "web", VIP: netip.MustParseAddr("192.0.2.10"), Protos: []uint8{core.ProtoTCP}, Seed: 42,
		Ports:  []core.PortRange{{First: 80, Last: 80}, {First: 443, Last: 443}, {First: 8000, Last: 8080}},
		Policy: "mine/p.wasm", Config: []byte(`{"zone":"a"}`), Mode: core.ModeTunnel, Upcalls: defaultUpcalls,
	}
	if d := cmp.Diff(want, cfg.Services[0], cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Error(d)
	}
	if cfg.Registry.ReadTimeout != time.Second || cfg.Registry.Agents[0] != netip.MustParsePrefix("10.0.0.0/24") {
		t.Errorf("%+v", cfg.Registry)
	}
	if cfg.Services[1].Index != 1 || cfg.Services[1].Policy != "hash" || cfg.Services[1].Seed == 0 {
		t.Errorf("%+v", cfg.Services[1])
	}
}

// Every finding names file, line and key, and says what is allowed.
func TestParseServerRefuses(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"nothing", "", "c.toml: service: at least one [[service]] is needed"},
		{"unknown key", "oops = 1\n" + minimal, "c.toml:1: oops: unknown key (allowed here: control, datapath, log"},
		{"unknown key in a service", minimal + "vipp = 1", "c.toml:5: service[0].vipp: unknown key (allowed in [service]: max_upcalls, mode, name"},
		{"bad VIP", "[[service]]\nname = \"a\"\nvip = \"192.0.2.300\"", `c.toml:3: service[0].vip: "192.0.2.300" is not an address that can be a VIP`},
		{"loopback VIP", "[[service]]\nname = \"a\"\nvip = \"127.0.0.1\"", `c.toml:3: service[0].vip`},
		{"no VIP", "[[service]]\nname = \"a\"", `c.toml:1: service[0].vip: "" is not`},
		{"no name", "[[service]]\nvip = \"192.0.2.1\"", `c.toml:1: service[0].name: "" is not a name`},
		{"duplicate name", minimal + "ports = [1]\n[[service]]\nname = \"web\"\nvip = \"192.0.2.11\"", `c.toml:7: service[1].name: "web" names an earlier service`},
		{"port 0", minimal + "ports = [0]", `c.toml:5: service[0].ports[0]: 0 is not a port from 1 to 65535`},
		{"port too high", minimal + "ports = [65536]", `c.toml:5: service[0].ports[0]`},
		{"range backwards", minimal + `ports = ["90-80"]`, `c.toml:5: service[0].ports[0]: "90-80" is not a port`},
		{"ports overlap", minimal + `ports = [85, "80-90"]`, `c.toml:5: service[0].ports: 80-90 and 85 overlap`},
		{"services overlap", minimal + "[[service]]\nname = \"b\"\nvip = \"192.0.2.10\"\nprotocol = \"udp\"\nports = [53]", `c.toml:9: service[1].ports: udp port 53 of VIP 192.0.2.10 belongs to service "web" already`},
		{"bad protocol", minimal + `protocol = "sctp"`, `c.toml:5: service[0].protocol: "sctp" is not a protocol (tcp, udp, both)`},
		{"bad metrics", "metrics = \"here\"" + minimal, `c.toml:1: metrics: "here" is not ADDRESS:PORT`},
		{"bad mode", minimal + `mode = "magic"`, `c.toml:5: service[0].mode: "magic" is not a mode (tunnel, direct)`},
		{"bad listen", "[registry]\nlisten = \"10.0.0.1:0\"\n" + minimal, `c.toml:2: registry.listen: "10.0.0.1:0" is not ADDRESS:PORT`},
		{"bad prefix", "[registry]\nagents = [\"10.0.0.1\"]\n" + minimal, `c.toml:2: registry.agents[0]: "10.0.0.1" is not a network`},
		{"bad duration", "[registry]\nread_timeout = \"30\"\n" + minimal, `c.toml:2: registry.read_timeout: "30" is not a duration`},
		{"negative queues", "[datapath]\nqueues = -1\n" + minimal, `c.toml:2: datapath.queues: -1 is out of range (0 to 256)`},
		{"wrong type", "[datapath]\nqueues = \"two\"\n" + minimal, `c.toml:2: datapath.queues: "two" must be an integer`},
		{"bad level", "[log]\nlevel = \"loud\"\n" + minimal, `c.toml:2: log.level: "loud" is not a level`},
		{"no fuel", "[policy]\npick_fuel = 0\n" + minimal, `c.toml:2: policy.pick_fuel: 0 is out of range (1 to`},
		{"relative socket", "control = \"x.sock\"\n" + minimal, `c.toml:1: control: "x.sock" is not an absolute path`},
		{"no TOML", "[[service]\n", "c.toml:2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseServer("c.toml", []byte(tt.in))
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("error %v", err)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

// The reference file names every key and states the code's defaults.
func TestExampleIsTheDefaults(t *testing.T) {
	data, err := os.ReadFile("../../caplance.example.toml")
	if err != nil {
		t.Fatal(err)
	}
	example := rawServer{}
	if _, err := Decode("caplance.example.toml", data, &example); err != nil {
		t.Fatal(err)
	}
	want := defaultServer()
	want.Registry.Agents = []string{}
	want.Datapath.Links = []string{}
	want.Service = example.Service
	if d := cmp.Diff(want, example); d != "" {
		t.Errorf("example and defaults differ (-code +example):\n%s", d)
	}
	for _, key := range []string{"name", "vip", "protocol", "ports", "policy", "mode", "seed", "policy_config", "shadow", "slow_start"} {
		if !strings.Contains(string(data), key) {
			t.Errorf("the example lacks the service key %s", key)
		}
	}
	if _, err := ParseServer("caplance.example.toml", data); err != nil {
		t.Error(err)
	}
}
