package config

import (
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/auth"
	"github.com/google/go-cmp/cmp"
)

const before = `
[registry]
agents = ["10.0.0.0/24"]
[datapath]
flows = 2048
[[service]]
name = "web"
vip = "192.0.2.10"
protocol = "tcp"
ports = [80]
[[service]]
name = "dns"
vip = "192.0.2.10"
protocol = "udp"
ports = [53]
[[service]]
name = "mail"
vip = "192.0.2.11"
removed_flows = "reset"
[[service]]
name = "ntp"
vip = "192.0.2.12"
`

const after = `
state_dir = "/var/lib/caplance"
control = "/var/lib/caplance/ctl"
metrics = "127.0.0.1:9338"
metrics_pprof = true
[registry]
agents = ["10.0.0.0/24", "2001:db8::/64"]
[datapath]
flows = 4096
timeouts.udp = "3m"
[[service]]
name = "dns"
vip = "192.0.2.10"
protocol = "udp"
ports = [53]
[[service]]
name = "ssh"
vip = "192.0.2.13"
protocol = "tcp"
ports = [22, "2200-2210"]
[[service]]
name = "web"
vip = "192.0.2.10"
protocol = "tcp"
ports = [80, 443]
policy_config.zone = "a"
`

func TestDiff(t *testing.T) {
	old, next := mustParse(t, before), mustParse(t, after)
	want := []Change{
		{`state_dir`, `"/run/caplance"`, `"/var/lib/caplance"`, false, fixed["state_dir"]},
		{`control`, `"/var/run/caplance-server.sock"`, `"/var/lib/caplance/ctl"`, false, fixed["control"]},
		{`metrics`, `""`, `"127.0.0.1:9338"`, true, ""},
		{`metrics_pprof`, `false`, `true`, true, ""},
		{`registry.agents`, `["10.0.0.0/24"]`, `["10.0.0.0/24", "2001:db8::/64"]`, true, ""},
		{`datapath.flows`, `2048`, `4096`, true, ""},
		{`datapath.timeouts.udp`, `"2m0s"`, `"3m0s"`, true, ""},
		{`service "mail"`, `192.0.2.11 both all`, ``, true, "its flows are reset"},
		{`service "ntp"`, `192.0.2.12 both all`, ``, true, "its flows drain"},
		{`service "ssh"`, ``, `192.0.2.13 tcp 22,2200-2210`, true, ""},
		{`service "web".ports`, `"80"`, `"80,443"`, true, ""},
		{`service "web".policy_config`, `{}`, `{"zone":"a"}`, true, ""},
	}
	if d := cmp.Diff(want, Diff(old, next)); d != "" {
		t.Error(d)
	}
	if !Equal(old, mustParse(t, before)) || Equal(old, next) || !EqualService(old.Services[1], next.Services[0]) || EqualService(old.Services[0], next.Services[2]) {
		t.Error("Equal disagrees with Diff")
	}
	for i, want := range map[int]string{
		5: "datapath.flows: 2048 → 4096", 7: `service "mail": removed, 192.0.2.11 both all (its flows are reset)`,
		9: `service "ssh": added, 192.0.2.13 tcp 22,2200-2210`,
	} {
		if got := Diff(old, next)[i].String(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func mustParse(t *testing.T, text string) *Server {
	t.Helper()
	cfg, err := ParseServer("c.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// TestDiffKnowsEveryField changes each field in turn: a key that Diff forgets
// would never be reloaded.
func TestDiffKnowsEveryField(t *testing.T) {
	old := mustParse(t, before)
	fields := 0
	walk(t, reflect.TypeFor[Server](), nil, func(path []string) {
		fields++
		next := mustParse(t, before)
		alter(t, strings.Join(path, "."), fieldOf(reflect.ValueOf(next).Elem(), path))
		if n := len(Diff(old, next)); n != 1 {
			t.Errorf("Server.%s: %d changes, want 1", strings.Join(path, "."), n)
		}
	})
	walk(t, reflect.TypeFor[core.Service](), nil, func(path []string) {
		fields++
		next := mustParse(t, before)
		alter(t, "Service."+strings.Join(path, "."), fieldOf(reflect.ValueOf(next.Services[0]).Elem(), path))
		if want := map[string]int{"Name": 2}[path[0]]; len(Diff(old, next)) != max(want, 1) || EqualService(old.Services[0], next.Services[0]) {
			t.Errorf("Service.%s: %v", path[0], Diff(old, next))
		}
	})
	listed := "[[agent]]\nname = \"web1\"\nkeys = [" + aKey + "]\n"
	old = mustParse(t, before+listed)
	walk(t, reflect.TypeFor[auth.Agent](), nil, func(path []string) {
		fields++
		next := mustParse(t, before+listed)
		alter(t, "Agent."+strings.Join(path, "."), fieldOf(reflect.ValueOf(&next.Known[0]).Elem(), path))
		if want := map[string]int{"Name": 2}[path[0]]; len(Diff(old, next)) != max(want, 1) {
			t.Errorf("Agent.%s: %v", path[0], Diff(old, next))
		}
	})
	fields-- // registry.key names both the file and what is in it
	if want := len(old.values()) + len(serviceValues(old.Services[0])) + 1 + len(agentValues(&old.Known[0])) + 1; fields != want {
		t.Errorf("%d fields, but %d keys", fields, want)
	}
}

// notInTheFile is what the configuration does not decide.
var notInTheFile = map[string]bool{
	"Service.Clients": true, "ClientFile.Sum": true, "Service.ID": true, "Service.Leaving": true, "Server.Services": true, "Server.Known": true, "Server.Static": true, "Server.doc": true,
}

// walk shows the paths of the leaves of a type.
func walk(t *testing.T, typ reflect.Type, path []string, show func([]string)) {
	for f := range typ.Fields() {
		below := append(path[:len(path):len(path)], f.Name)
		switch {
		case notInTheFile[typ.Name()+"."+f.Name]:
		case f.Type.Kind() == reflect.Struct && f.Type.PkgPath() != "net/netip":
			walk(t, f.Type, below, show)
		default:
			show(below)
		}
	}
}

func fieldOf(v reflect.Value, path []string) reflect.Value {
	for _, name := range path {
		v = v.FieldByName(name)
	}
	return v
}

// alter gives a field another value.
func alter(t *testing.T, name string, v reflect.Value) {
	t.Helper()
	switch p := v.Addr().Interface().(type) {
	case *netip.Addr:
		*p = netip.MustParseAddr("198.51.100.1")
	case *netip.AddrPort:
		*p = netip.MustParseAddrPort("198.51.100.1:1")
	case *[]netip.Prefix:
		*p = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	case *auth.Credentials:
		*p = auth.NewKeyPair()
	case *[]auth.Pattern:
		*p = []auth.Pattern{{}}
	case *[]auth.PublicKey:
		*p = []auth.PublicKey{{1}}
	case *[]core.PortRange:
		*p = []core.PortRange{{First: 1, Last: 2}}
	case *[]string:
		*p = []string{"other0"}
	case *[]uint8: // protocols, or JSON
		*p = []uint8{core.ProtoUDP}
	case *core.Mode:
		*p = core.ModeDirect
	case *core.RemovedFlows:
		*p = core.ResetRemoved
	default:
		switch {
		case v.Kind() == reflect.Bool:
			v.SetBool(!v.Bool())
		case v.Kind() == reflect.String:
			v.SetString(v.String() + "x")
		case v.CanInt():
			v.SetInt(v.Int() + 1)
		case v.CanUint():
			v.SetUint(v.Uint() + 1)
		default:
			t.Fatalf("%s: a %v cannot be altered; teach this test", name, v.Type())
		}
	}
}

// The reload table of docs/configuration.md has every key, and says of each what
// Diff says.
func TestReloadTable(t *testing.T) {
	doc, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := ParseServer("c.toml", []byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	live := map[string]bool{}
	for _, v := range cfg.values() {
		live[v.key] = fixed[v.key] == ""
	}
	for _, v := range serviceValues(cfg.Services[0]) {
		live["service."+v.key] = true
	}
	for _, v := range staticValues(&StaticBackend{}) {
		live["service.backend."+v.key] = true
	}
	for _, v := range agentValues(&auth.Agent{}) {
		live["agent."+v.key] = true
	}
	_, table, _ := strings.Cut(string(doc), "| key | live |")
	table, _, _ = strings.Cut(table, "\n\n")
	documented := map[string]bool{}
	for row := range strings.SplitSeq(table, "\n") {
		cells := strings.Split(row, "|")
		if len(cells) < 4 {
			continue
		}
		for i, key := range strings.Split(cells[1], "`") {
			if i%2 == 1 {
				documented[key] = strings.TrimSpace(cells[2]) == "yes"
			}
		}
	}
	if diff := cmp.Diff(live, documented); diff != "" {
		t.Error(diff)
	}
}
