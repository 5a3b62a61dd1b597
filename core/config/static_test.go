package config

import (
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/probe"
)

const withStatics = `
[[service]]
name = "web"
vip = "192.0.2.10"
protocol = "tcp"
ports = [443, 80]
mode = "direct"
[[service.backend]]
name = "b2"
address = "10.0.0.12"
[[service.backend]]
name = "b1"
address = "10.0.0.11"
mode = "tunnel"
weight = 3
priority = 1
max_flows = 100
[service.backend.check]
type = "http"
path = "/health"
[[service]]
name = "dns"
vip = "192.0.2.10"
protocol = "udp"
ports = [53]
mode = "direct"
[[service.backend]]
name = "b2"
address = "10.0.0.12"
`

// Backends of the file are ordered, and each has a check.
func TestStaticBackends(t *testing.T) {
	cfg := mustParse(t, withStatics)
	check := func(service, backend string, kind probe.Kind) probe.Spec {
		return probe.Spec{Service: service, Backend: backend, Kind: kind, Interval: 2 * time.Second, Timeout: time.Second, Rise: 2, Fall: 2}
	}
	page := check("web", "b1", probe.HTTP)
	page.Path, page.Status = "/health", probe.Status{First: 200, Last: 299}
	b1, b2 := netip.MustParseAddr("10.0.0.11"), netip.MustParseAddr("10.0.0.12")
	want := []StaticBackend{
		{"service[0].backend[1]", core.Backend{Name: "b1", Addr: b1, Services: []string{"web"}, Weight: 3, Priority: 1, MaxFlows: 100, KernelDecap: true, Mode: core.ModeTunnel, Static: true}, page},
		{"service[1].backend[0]", core.Backend{Name: "b2", Addr: b2, Services: []string{"dns"}, Weight: 1, KernelDecap: true, Mode: core.ModeDirect, Static: true}, check("dns", "b2", probe.UDP)},
		{"service[0].backend[0]", core.Backend{Name: "b2", Addr: b2, Services: []string{"web"}, Weight: 1, KernelDecap: true, Mode: core.ModeDirect, Static: true}, check("web", "b2", probe.TCP)},
	}
	if d := cmp.Diff(want, cfg.Static, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Error(d)
	}
}

func TestStaticBackendsRefused(t *testing.T) {
	for change, want := range map[string]string{
		"name = \"b2\"|name = \"b 2\"":         `service[0].backend[0].name: "b 2" is not 1 to`,
		"name = \"b1\"|name = \"b2\"":          `service[0].backend[1].name: the service has a backend "b2" already`,
		"10.0.0.11|10.0.0.12":                  "service[0].backend[1].address: backend b2 of the service has address 10.0.0.12, too",
		"10.0.0.11|192.0.2.10":                 "backend[1].address: 192.0.2.10 is the VIP of service web: its packets would come back",
		"10.0.0.11|2001:db8::11":               "backend[1].mode: a backend's kernel takes IPv4 out of IPv4 at the tunnel's port (FOU), and vip 192.0.2.10 or address 2001:db8::11 is not",
		"10.0.0.11|127.0.0.1":                  "address: 127.0.0.1 is a loopback address: no packet",
		"10.0.0.11|web1.example.com":           `address: "web1.example.com" is not an IP address`,
		"mode = \"tunnel\"|mode = \"bridge\"":  "backend[1].mode: ",
		"weight = 3|weight = 70000":            "backend[1].weight: 70000 is out of range",
		"type = \"http\"|type = \"listen\"":    "backend[1].check.type: only an agent on the backend sees who listens there",
		"path = \"/health\"|service = \"web\"": "backend[1].check.service: the check is of this backend in service web",
		"path = \"/health\"|timeout = \"5\"":   `backend[1].check.timeout: "5" has no unit: write "5s"`,
		"ports = [443, 80]|":                   "backend[0].check.address: service web has all ports",
		"name = \"b2\"\naddress = \"10.0.0.12\"\n[[service.backend]]\nname = \"b1\"|name = \"b2\"\naddress = \"2001:db8::2\"\n[[service.backend]]\nname = \"b1\"":                                                                                                                       "is of another family than vip 192.0.2.10: mode direct",
		"vip = \"192.0.2.10\"\nprotocol = \"udp\"\nports = [53]\nmode = \"direct\"\n[[service.backend]]\nname = \"b2\"\naddress = \"10.0.0.12\"|vip = \"192.0.2.10\"\nprotocol = \"udp\"\nports = [53]\nmode = \"direct\"\n[[service.backend]]\nname = \"b2\"\naddress = \"10.0.0.99\"": "backend b2 has another address in another service (10.0.0.12)",
	} {
		from, to, _ := strings.Cut(change, "|")
		if strings.Count(withStatics, from) == 0 {
			t.Fatalf("%q is not in the file", from)
		}
		_, err := ParseServer("c.toml", []byte(strings.Replace(withStatics, from, to, 1)))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v\nwant %s", to, err, want)
		}
	}
}

// Every key of a [[service.backend]] and of its check can change while the balancer runs.
func TestStaticBackendsDiff(t *testing.T) {
	old := mustParse(t, withStatics)
	for change, want := range map[string]string{
		"weight = 3|weight = 4":                `service "web".backend "b1".weight: 3 → 4`,
		"priority = 1|priority = 2":            `service "web".backend "b1".priority: 1 → 2`,
		"max_flows = 100|":                     `service "web".backend "b1".max_flows: 100 → 0`,
		"10.0.0.11|10.0.0.13":                  `service "web".backend "b1".address: "10.0.0.11" → "10.0.0.13"`,
		"mode = \"tunnel\"|mode = \"direct\"":  `service "web".backend "b1".mode: "tunnel" → "direct"`,
		"path = \"/health\"|path = \"/ready\"": `service "web".backend "b1".check: http, path "/health", status "200-299", every 2s, at most 1s, rise 2, fall 2 → http, path "/ready", status "200-299", every 2s, at most 1s, rise 2, fall 2`,
		"name = \"b1\"\naddress = \"10.0.0.11\"|name = \"b3\"\naddress = \"10.0.0.11\"": `service "web".backend "b1": removed, 10.0.0.11 (its flows are placed anew)`,
	} {
		from, to, _ := strings.Cut(change, "|")
		changes := Diff(old, mustParse(t, strings.Replace(withStatics, from, to, 1)))
		if len(changes) == 0 || changes[0].String() != want || !changes[0].Live {
			t.Errorf("%q: %v\nwant %s", to, changes, want)
		}
	}
}

// What the reference file shows of backends without an agent is valid, and has every key.
func TestStaticBackendsOfTheExample(t *testing.T) {
	data, err := os.ReadFile("../../caplance.example.toml")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	shown := false
	for line := range strings.Lines(string(data)) {
		if shown = shown && line != "\n" || strings.HasPrefix(line, "#[[service.backend]]"); shown {
			line = strings.TrimPrefix(line, "#")
		}
		lines = append(lines, line)
	}
	cfg := mustParse(t, strings.Join(lines, ""))
	if len(cfg.Static) != 1 {
		t.Fatalf("%d backends", len(cfg.Static))
	}
	for f := range reflect.TypeFor[rawBackend]().Fields() {
		if key := f.Tag.Get("toml"); !strings.Contains(string(data), "\n#"+key+" = ") && key != "check" {
			t.Errorf("the example lacks %s", key)
		}
	}
}

// A backend that is this machine is refused before its packets circle.
func TestStaticBackendsOfThisMachine(t *testing.T) {
	cfg := mustParse(t, withStatics)
	m := Machine{Links: []string{"eth0"}, Addrs: []MachineAddr{{"eth0", netip.MustParsePrefix("10.0.0.11/24")}}}
	if _, err := cfg.CheckMachine(m); err == nil || !strings.Contains(err.Error(), "c.toml:13: service[0].backend[1].address: 10.0.0.11 is this machine's own address on eth0") {
		t.Error(err)
	}
	m.Addrs[0].Prefix = netip.MustParsePrefix("10.0.0.1/24")
	if _, err := cfg.CheckMachine(m); err != nil {
		t.Error(err)
	}
	for _, doubt := range cfg.Doubts(false) {
		t.Errorf("a file that needs no agent is doubted: %s", doubt)
	}
}
