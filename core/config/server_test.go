package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/auth"
	"github.com/google/go-cmp/cmp"
)

const minimal = `
[[service]]
name = "web"
vip = "192.0.2.10"
`

// aKey is a public key, quoted.
const aKey = `"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="`

func TestParseServer(t *testing.T) {
	cfg, err := ParseServer("c.toml", []byte(`
[registry]
listen = "10.0.0.1:1338"
agents = ["10.0.0.7/24"]
lease = "1s"
[[service]]
name = "web"
vip = "192.0.2.10"
protocol = "tcp"
ports = [443, "8000-8080", 80]
policy = "mine/p.wasm"
seed = 42
removed_flows = "reset"
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
		Policy: "mine/p.wasm", Config: []byte(`{"zone":"a"}`), Mode: core.ModeTunnel, Upcalls: defaultUpcalls, SourcePrefix4: 32, SourcePrefix6: 64, Removed: core.ResetRemoved,
	}
	if d := cmp.Diff(want, cfg.Services[0], cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Error(d)
	}
	if cfg.Registry.Lease != time.Second || cfg.Registry.Agents[0] != netip.MustParsePrefix("10.0.0.0/24") {
		t.Errorf("%+v", cfg.Registry)
	}
	if cfg.Services[1].Policy != "hash" || cfg.Services[1].Seed == 0 {
		t.Errorf("%+v", cfg.Services[1])
	}
}

// Every finding names file, line and key, and says what is allowed.
func TestParseServerRefuses(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"nothing", "", "c.toml: service: at least one [[service]] is needed"},
		{"unknown key", "oops = 1\n" + minimal, "c.toml:1: oops: unknown key (allowed here: agent, control, control_clients, control_group, control_read_group, datapath, log"},
		{"unknown key in a service", minimal + "vipp = 1", "c.toml:5: service[0].vipp: unknown key; did you mean vip? (allowed in [service]: allow, allow_file, backend, deny, deny_file, expected, icmp_echo, max_new_flows, max_upcalls, min_backends, mode, name"},
		{"bad VIP", "[[service]]\nname = \"a\"\nvip = \"192.0.2.300\"", `c.toml:3: service[0].vip: "192.0.2.300" is not an address that can be a VIP`},
		{"broadcast VIP", "[[service]]\nname = \"a\"\nvip = \"255.255.255.255\"", `c.toml:3: service[0].vip: "255.255.255.255" is not an address that can be a VIP`},
		{"loopback VIP", "[[service]]\nname = \"a\"\nvip = \"127.0.0.1\"", `c.toml:3: service[0].vip`},
		{"no VIP", "[[service]]\nname = \"a\"", `c.toml:1: service[0].vip: it is missing: a service has an address`},
		{"no name", "[[service]]\nvip = \"192.0.2.1\"", `c.toml:1: service[0].name: it is missing: a service has a name`},
		{"duplicate name", minimal + "ports = [1]\n[[service]]\nname = \"web\"\nvip = \"192.0.2.11\"", `c.toml:7: service[1].name: "web" names an earlier service`},
		{"port 0", minimal + "ports = [0]", `c.toml:5: service[0].ports[0]: 0 is not a port from 1 to 65535`},
		{"port too high", minimal + "ports = [65536]", `c.toml:5: service[0].ports[0]`},
		{"range backwards", minimal + `ports = ["90-80"]`, `c.toml:5: service[0].ports[0]: "90-80" is not a port`},
		{"ports overlap", minimal + `ports = [85, "80-90"]`, `c.toml:5: service[0].ports: 80-90 and 85 overlap`},
		{"services overlap", minimal + "[[service]]\nname = \"b\"\nvip = \"192.0.2.10\"\nprotocol = \"udp\"\nports = [53]", `c.toml:9: service[1].ports: udp port 53 of VIP 192.0.2.10 belongs to service "web" already`},
		{"bad protocol", minimal + `protocol = "sctp"`, `c.toml:5: service[0].protocol: "sctp" is not a protocol (tcp, udp, both)`},
		{"bad metrics", "metrics = \"here\"" + minimal, `c.toml:1: metrics: "here" is not ADDRESS:PORT`},
		{"bad datapath type", "[datapath]\ntype = \"fast\"\n" + minimal, `c.toml:2: datapath.type: "fast" is not a datapath type (auto, tc, xdp, userspace)`},
		{"a key of another version", "[datapath]\nkind = \"tc\"\n" + minimal, `c.toml:2: datapath.kind: unknown key`},
		{"bad access to the host", "[datapath]\nvip_host_access = true\n" + minimal, `c.toml:2: datapath.vip_host_access: true must be a string`},
		{"bad way of access to the host", "[datapath]\nvip_host_access = \"yes\"\n" + minimal, `c.toml:2: datapath.vip_host_access: "yes" must be own, always or never`},
		{"too few backends", "[datapath]\nmax_backends = 63\n" + minimal, `c.toml:2: datapath.max_backends: 63 is out of range (64 to 1048576)`},
		{"bad end of flows", minimal + `removed_flows = "keep"`, `c.toml:5: service[0].removed_flows: "keep" must be drain or reset`},
		{"bad answer without a backend", minimal + `no_backend = "refuse"`, `c.toml:5: service[0].no_backend: "refuse" must be reset or drop`},
		{"bad timeout of a service", minimal + "[service.timeouts]\ntcp = \"0s\"", `c.toml:6: service[0].timeouts.tcp: 0s is out of range (1s to 1000h0m0s)`},
		{"unknown timeout of a service", minimal + "[service.timeouts]\nsctp = \"1s\"", `c.toml:6: service[0].timeouts.sctp: unknown key (allowed in [service.timeouts]: tcp, tcp_fin, tcp_half_closed, tcp_syn, udp)`},
		{"an empty timeout", "[datapath.timeouts]\ntcp = \"\"\n" + minimal, `c.toml:2: datapath.timeouts.tcp: "" is not a duration`},
		{"bad unit of UDP", minimal + `udp = "packet"`, `c.toml:5: service[0].udp: "packet" must be flow or datagram`},
		{"reset of UDP", minimal + "protocol = \"udp\"\non_expire = \"reset\"", `c.toml:6: service[0].on_expire: it is nothing to a service of UDP alone`},
		{"TCP timeout of UDP", minimal + "protocol = \"udp\"\ntimeouts.tcp_fin = \"3s\"", `c.toml:6: service[0].timeouts.tcp_fin: it is nothing to a service of UDP alone`},
		{"UDP timeout of TCP", minimal + "protocol = \"tcp\"\ntimeouts.udp = \"3s\"", `c.toml:6: service[0].timeouts.udp: it is nothing to a service of TCP alone`},
		{"datagrams of TCP", minimal + "protocol = \"tcp\"\nudp = \"datagram\"", `c.toml:6: service[0].udp: "datagram" is nothing to a service of TCP alone`},
		{"bad way to know agents", "[registry]\nauth = \"password\"\n" + minimal, `c.toml:2: registry.auth: "password" is not a way to know agents (keys, ca, none)`},
		{"anybody from anywhere", "[registry]\nauth = \"none\"\n" + minimal, `c.toml:1: registry.agents: auth = "none" lets in whoever is in these networks`},
		{"allow with keys", "[registry]\nallow = [\"10.0.0.0/8\"]\n" + minimal, `c.toml:2: registry.allow: it is for auth = "none"`},
		{"an agent without a name", minimal + "[[agent]]\nkeys = [" + aKey + "]", `c.toml:5: agent[0].name: "" is not 1 to 63 of`},
		{"an agent without a key", minimal + "[[agent]]\nname = \"a\"", `c.toml:5: agent[0].keys: 0 keys: an agent has one`},
		{"a key of another kind", minimal + "[[agent]]\nname = \"a\"\nkeys = [\"c3NoLWVkMjU1MTk=\"]", `c.toml:7: agent[0].keys[0]: "c3NoLWVkMjU1MTk=" is not a public key: caplance keygen prints one`},
		{"one key of two agents", minimal + "[[agent]]\nname = \"a\"\nkeys = [" + aKey + "]\n[[agent]]\nname = \"b\"\nkeys = [" + aKey + "]", `c.toml:10: agent[1].keys[0]: key is agent "a"'s, too`},
		{"two agents of one name", minimal + "[[agent]]\nname = \"a\"\nkeys = [" + aKey + "]\n[[agent]]\nname = \"a\"\nkeys = [" + aKey + "]", `c.toml:9: agent[1].name: there is an agent "a" already`},
		{"a name of another agent", minimal + "[[agent]]\nname = \"a-b\"\nkeys = [" + aKey + "]\n[[agent]]\nname = \"a\"\nmax_names = 2\nkeys = [" + aKey[:42] + "c=\"]", `c.toml:6: agent[0].name: agent "a" may take this name, too`},
		{"an agent's service that is not there", minimal + "[[agent]]\nname = \"a\"\nkeys = [" + aKey + "]\nservices = [\"mail\"]", `c.toml:8: agent[0].services[0]: there is no service "mail"`},
		{"an agent's network", minimal + "[[agent]]\nname = \"a\"\nkeys = [" + aKey + "]\nallow = [\"10.0.0.x\"]", `c.toml:8: agent[0].allow[0]: "10.0.0.x" is not a network or an address`},
		{"an agent's weight", minimal + "[[agent]]\nname = \"a\"\nkeys = [" + aKey + "]\nmax_weight = 70000", `c.toml:8: agent[0].max_weight: 70000 is out of range (0 to 65535)`},
		{"bad answer to pings", minimal + `icmp_echo = "no"`, `c.toml:5: service[0].icmp_echo: "no" must be always, never or backends`},
		{"two answers to pings", minimal + "ports = [80]\nicmp_echo = \"never\"\n[[service]]\nname = \"b\"\nvip = \"192.0.2.10\"\nports = [81]\nicmp_echo = \"backends\"", `c.toml:11: service[1].icmp_echo: "backends" contradicts "never" of service "web" (service[0]), which has the same vip 192.0.2.10`},
		{"too many new flows", minimal + `max_new_flows = 1000001`, `c.toml:5: service[0].max_new_flows: 1000001 is out of range (0 to 1000000)`},
		{"a source of no bits", minimal + `source_prefix_ipv4 = 0`, `c.toml:5: service[0].source_prefix_ipv4: 0 is out of range (1 to 32)`},
		{"a source of too many bits", minimal + `source_prefix_ipv6 = 129`, `c.toml:5: service[0].source_prefix_ipv6: 129 is out of range (1 to 128)`},
		{"a client's network", minimal + `allow = ["10.0.0.0/33"]`, `c.toml:5: service[0].allow[0]: "10.0.0.0/33" is not a network or an address of clients`},
		{"a client of IPv4 as IPv6", minimal + `deny = ["::ffff:10.0.0.0/104"]`, `c.toml:5: service[0].deny[0]: "::ffff:10.0.0.0/104" is of IPv4, written as IPv6`},
		{"allowed and denied", minimal + "allow = [\"10.0.0.0/8\"]\ndeny = [\"10.0.0.1/8\"]", `service[0]: 10.0.0.0/8 is both allowed and denied`},
		{"a list of clients that is not there", minimal + `deny_file = "/nowhere/list"`, `c.toml:5: service[0].deny_file: open /nowhere/list: no such file`},
		{"a name like a flag", "[[service]]\nname = \"-t\"\nvip = \"192.0.2.1\"", `c.toml:2: service[0].name: "-t" is not a name`},
		{"bad mode", minimal + `mode = "magic"`, `c.toml:5: service[0].mode: "magic" is not a mode (tunnel, direct)`},
		{"bad listen", "[registry]\nlisten = \"10.0.0.1:0\"\n" + minimal, `c.toml:2: registry.listen: "10.0.0.1:0" is not ADDRESS:PORT`},
		{"bad prefix", "[registry]\nagents = [\"10.0.0\"]\n" + minimal, `c.toml:2: registry.agents[0]: "10.0.0" is not a network or an address`},
		{"bad duration", "[registry]\nlease = \"30\"\n" + minimal, `c.toml:2: registry.lease: "30" has no unit: write "30s"`},
		{"negative queues", "[datapath]\nqueues = -1\n" + minimal, `c.toml:2: datapath.queues: -1 is out of range (0 to 256)`},
		{"wrong type", "[datapath]\nqueues = \"two\"\n" + minimal, `c.toml:2: datapath.queues: "two" must be an integer`},
		{"bad level", "[log]\nlevel = \"loud\"\n" + minimal, `c.toml:2: log.level: "loud" is not a level`},
		{"no fuel", "[policy]\npick_fuel = 0\n" + minimal, `c.toml:2: policy.pick_fuel: 0 is out of range (1 to`},
		{"relative socket", "control = \"x.sock\"\n" + minimal, `c.toml:1: control: "x.sock" is not an absolute path`},
		{"a number for a duration", "[registry]\nlease = 30\n" + minimal, `c.toml:2: registry.lease: 30 has no unit: write lease = "30s"`},
		{"a list for a value", minimal + `policy = ["hash"]`, `c.toml:5: service[0].policy: one value is meant, not a list: write policy = "hash"`},
		{"a value for a list", minimal + `ports = 80`, `c.toml:5: service[0].ports: 80 must be a list: write ports = [80]`},
		{"one table for several", "[service]\nname = \"web\"", `c.toml:1: service: write [[service]]: there may be several`},
		{"a backend's line", minimal + "[[service.backend]]\nname = \"a\"\naddress = \"10.0.0.1\"\n[[service.backend]]\nname = \"b\"\naddress = \"10.0.0\"", `c.toml:10: service[0].backend[1].address: "10.0.0" is not an IP address`},
		{"a backend's check's line", minimal + "[[service.backend]]\nname = \"a\"\naddress = \"10.0.0.1\"\n[service.backend.check]\ntype = \"ping\"", `c.toml:9: service[0].backend[0].check.type: "ping" is not a type of check`},
		{"a backend without an address", minimal + "[[service.backend]]\nname = \"a\"", `c.toml:5: service[0].backend[0].address: it is missing`},
		{"an agent's service that is misspelt", minimal + "[[agent]]\nname = \"a\"\nkeys = [" + aKey + "]\nservices = [\"wbe\"]", `there is no service "wbe"; did you mean web?`},
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

// What one service of a VIP says of pings holds for all of them, wherever they stand.
func TestEchoOfAVIP(t *testing.T) {
	cfg, err := ParseServer("c.toml", []byte(`
[[service]]
name = "a"
vip = "192.0.2.10"
ports = [1]
[[service]]
name = "b"
vip = "192.0.2.10"
ports = [2]
icmp_echo = "backends"
[[service]]
name = "c"
vip = "192.0.2.11"
`))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []core.Echo{core.EchoBackends, core.EchoBackends, core.EchoAlways} {
		if got := cfg.Services[i].Echo; got != want {
			t.Errorf("service %s: %v, want %v", cfg.Services[i].Name, got, want)
		}
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
	want.Registry.Agents, want.Registry.Allow = []string{}, []string{}
	want.Datapath.Links = []string{}
	want.Service, want.Agent = example.Service, example.Agent
	for _, key := range []string{"[[agent]]", "name", "keys", "allow", "services", "max_weight", "max_names"} {
		if !strings.Contains(string(data), key) {
			t.Errorf("the example lacks the agent key %s", key)
		}
	}
	if d := cmp.Diff(want, example); d != "" {
		t.Errorf("example and defaults differ (-code +example):\n%s", d)
	}
	for _, key := range []string{"name", "vip", "protocol", "ports", "policy", "mode", "seed", "policy_config", "shadow", "slow_start", "max_upcalls", "removed_flows", "no_backend", "timeouts", "udp", "icmp_echo", "allow", "deny", "allow_file", "deny_file", "max_new_flows", "source_prefix_ipv4", "source_prefix_ipv6"} {
		if !strings.Contains(string(data), key) {
			t.Errorf("the example lacks the service key %s", key)
		}
	}
	cfg, err := ParseServer("caplance.example.toml", data)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range cfg.values() {
		if _, ok := cfg.doc.lines[v.key]; !ok {
			t.Errorf("the example lacks %s, which Diff names", v.key)
		}
	}
}

// Every setting comes from the file, the hash's seed from the machine.
func TestSettings(t *testing.T) {
	cfg, err := ParseServer("c.toml", []byte(`
[datapath]
type = "xdp"
first_queue = 7
queue_length = 100
tunnel_port = 99
flows = 2048
max_backends = 64
timeouts.udp = "9s"
`+minimal))
	if err != nil {
		t.Fatal(err)
	}
	got := cfg.Settings(3)
	want := &core.Settings{
		Type: core.XDP, Queues: 3, FirstQueue: 7, QueueLength: 100, TunnelPort: 99, Flows: 2048, MaxBackends: 64,
		Timeouts: core.Timeouts{TCP: 15 * time.Minute, TCPSyn: time.Minute, TCPFin: time.Minute, TCPHalfClosed: 15 * time.Minute, UDP: 9 * time.Second},
		HashSeed: got.HashSeed,
	}
	if d := cmp.Diff(want, got); d != "" || got.HashSeed == 0 || got.HashSeed != cfg.Settings(1).HashSeed {
		t.Errorf("hash seed %d\n%s", got.HashSeed, d)
	}
}

func TestAgents(t *testing.T) {
	cfg, err := ParseServer("c.toml", []byte(minimal+`
[[agent]]
name = "web1"
keys = [`+aKey+`]
[[agent]]
name = "node"
keys = [`+strings.Replace(aKey, "A=", "E=", 1)+`, `+strings.Replace(aKey, "A=", "I=", 1)+`]
allow = ["10.0.0.7/24"]
services = ["web"]
max_weight = 0
max_names = 3
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []auth.Agent{
		{Name: "web1", Keys: []auth.PublicKey{{}}, MaxWeight: 65535, MaxNames: 1},
		{Name: "node", Keys: []auth.PublicKey{{31: 1}, {31: 2}}, Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}, Services: []string{"web"}, MaxNames: 3},
	}
	if d := cmp.Diff(want, cfg.Known, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Error(d)
	}
}

// The key is read with the file; one that is not there is an error that says how to
// make it.
func TestLoadKey(t *testing.T) {
	dir := t.TempDir()
	file, key := filepath.Join(dir, "c.toml"), filepath.Join(dir, "k")
	if err := os.WriteFile(file, []byte("[registry]\nauth = \"keys\"\nkey = \""+key+"\"\n"+minimal), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadServer(file); err == nil || !strings.Contains(err.Error(), "c.toml:3: registry.key: open "+key) || !strings.Contains(err.Error(), "caplance keygen "+key) {
		t.Errorf("without a key: %v", err)
	}
	pair := auth.NewKeyPair()
	if err := pair.Save(key); err != nil {
		t.Fatal(err)
	}
	cfg, err := LoadServer(file)
	if err != nil || cfg.Registry.Own.Identity().Key != pair.Public() {
		t.Errorf("key %v, %v", cfg, err)
	}
}

// Profiles that more than this machine may take are a warning.
func TestProfilesForEverybody(t *testing.T) {
	for at, want := range map[string]int{"127.0.0.1:9338": 0, "[::1]:9338": 0, "0.0.0.0:9338": 1, "10.0.0.1:9338": 1} {
		for _, on := range []bool{false, true} {
			cfg := mustParse(t, fmt.Sprintf("metrics = %q\nmetrics_pprof = %t\n[registry]\nauth = \"none\"\nagents = [\"10.0.0.0/24\"]\n%s", at, on, minimal))
			got := 0
			for _, d := range cfg.Doubts(true) {
				if strings.Contains(d, "metrics_pprof") {
					got++
				}
			}
			if on && got != want || !on && got != 0 {
				t.Errorf("%s, profiles %t: %d warnings: %q", at, on, got, cfg.Doubts(true))
			}
		}
	}
}
