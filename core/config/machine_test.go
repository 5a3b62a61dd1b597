package config

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

var router = Machine{
	Links: []string{"lo", "eth0", "cloud0"},
	Addrs: []MachineAddr{
		{"lo", netip.MustParsePrefix("127.0.0.1/8")},
		{"lo", netip.MustParsePrefix("192.0.2.1/32")}, // as a router's loopback address, or as a predecessor left it
		{"eth0", netip.MustParsePrefix("10.0.0.1/24")},
		{"eth0", netip.MustParsePrefix("10.0.0.10/32")}, // beside the one with the network: a VIP
		{"eth0", netip.MustParsePrefix("2001:db8::1/64")},
		{"eth0", netip.MustParsePrefix("2001:db8::10/128")},
		{"eth0", netip.MustParsePrefix("fe80::1/64")},
		{"cloud0", netip.MustParsePrefix("10.9.0.9/32")}, // the only one
		{"cloud0", netip.MustParsePrefix("10.8.0.0/31")},
	},
}

func TestCheckMachine(t *testing.T) {
	for _, tt := range []struct{ name, vip, want string }{
		{"free", "10.0.0.99", ""},
		{"own", "10.0.0.1", "c.toml:6: service[0].vip: 10.0.0.1 is this machine's own address on eth0"},
		{"own, IPv6", "2001:db8::1", "this machine's own address on eth0"},
		{"on lo", "192.0.2.1", ""},
		{"left beside the own one", "10.0.0.10", ""},
		{"left beside the own one, IPv6", "2001:db8::10", ""},
		{"broadcast", "10.0.0.255", "c.toml:6: service[0].vip: 10.0.0.255 is the broadcast address of 10.0.0.0/24"},
		{"end of a point-to-point network", "10.8.0.1", ""},
		{"no broadcast in IPv6", "2001:db8::ffff:ffff:ffff:ffff", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := parsed(t, tt.vip)
			warnings, err := cfg.CheckMachine(router)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !errors.As(err, new(*Error))) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if len(warnings) != 1 || !strings.Contains(warnings[0].Error(), `c.toml:3: datapath.links[1]: link "eth7" is not there`) {
				t.Errorf("warnings %v", warnings)
			}
		})
	}
}

func parsed(t *testing.T, vip string) *Server {
	t.Helper()
	cfg, err := ParseServer("c.toml", []byte("\n[datapath]\nlinks = ['eth0', 'eth7']\n[[service]]\nname = 'a'\nvip = '"+vip+"'"))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// A cloud's machine has its only address without a network.
func TestOnlyAddressIsTheOwnOne(t *testing.T) {
	cloud := Machine{Links: []string{"ens4"}, Addrs: []MachineAddr{
		{"ens4", netip.MustParsePrefix("10.9.0.9/32")}, {"ens4", netip.MustParsePrefix("fe80::1/64")},
	}}
	cfg := parsed(t, "10.9.0.9")
	if _, err := cfg.CheckMachine(cloud); err == nil || !strings.Contains(err.Error(), "own address on ens4") {
		t.Error(err)
	}
	cloud.Left = []netip.Addr{netip.MustParseAddr("10.9.0.9")}
	if _, err := cfg.CheckMachine(cloud); err != nil {
		t.Errorf("left by a predecessor: %v", err)
	}
}

// What is not there yet is a warning: it may come.
func TestMissingAddressesAreWarnings(t *testing.T) {
	cfg, err := ParseServer("c.toml", []byte("metrics = '10.0.0.7:9338'\n[registry]\nlisten = '10.0.0.7:1338'"+minimal))
	if err != nil {
		t.Fatal(err)
	}
	warnings, err := cfg.CheckMachine(router)
	if err != nil {
		t.Fatal(err)
	}
	got := errors.Join(warnings...).Error()
	for _, want := range []string{"c.toml:3: registry.listen: this machine does not have 10.0.0.7", "c.toml:1: metrics: this machine does not have 10.0.0.7"} {
		if !strings.Contains(got, want) {
			t.Errorf("%s\nlacks %s", got, want)
		}
	}
	cfg, err = ParseServer("c.toml", []byte("metrics = '127.0.0.1:9338'\n[registry]\nlisten = '10.0.0.1:1338'"+minimal))
	if err != nil {
		t.Fatal(err)
	}
	if warnings, err := cfg.CheckMachine(router); len(warnings) > 0 || err != nil {
		t.Error(warnings, err)
	}
}

func TestThisMachine(t *testing.T) {
	m, err := ThisMachine()
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Links) == 0 || m.Links[0] != "lo" {
		t.Errorf("%+v", m)
	}
}

// Values that are valid each, but not together.
func TestConflicts(t *testing.T) {
	const service = "\n[[service]]\nname = 'web'\nvip = '192.0.2.10'\nprotocol = 'tcp'\nports = [80]"
	for _, tt := range []struct{ name, head, want string }{
		{"VIP is the registry's", "[registry]\nlisten = '192.0.2.10:1338'", "c.toml:5: service[0].vip: 192.0.2.10 is the address of registry.listen"},
		{"mapped", "[registry]\nlisten = '[::ffff:192.0.2.10]:1338'", "service[0].vip: 192.0.2.10 is the address of registry.listen"},
		{"metrics at the registry", "metrics = '10.0.0.1:1338'", "c.toml:1: metrics: 10.0.0.1:1338 is taken by registry.listen = 0.0.0.0:1338"},
		{"metrics at all, registry at one", "metrics = '[::]:1338'\n[registry]\nlisten = '10.0.0.1:1338'", "c.toml:1: metrics: [::]:1338 is taken"},
		{"metrics on a VIP", "metrics = '192.0.2.10:81'", `c.toml:1: metrics: 192.0.2.10 is the VIP of service "web"`},
		{"metrics in the other family", "metrics = '[::1]:1338'", ""},
		{"control of an agent", "control = '/run/../run/caplance.sock'", "c.toml:1: control: /run/../run/caplance.sock is where an agent on this machine is asked"},
		{"control is the directory", "control = '/run/caplance'", "c.toml:1: control: /run/caplance is the state_dir"},
		{"control is the log", "control = '/tmp/x'\nlog.file = '/tmp/x'", "c.toml:1: control: /tmp/x is the log's file, too"},
		{"control is too long", "control = '/" + strings.Repeat("x", 107) + "'", "c.toml:1: control: "},
		{"empty link", "[datapath]\nlinks = ['']", `c.toml:2: datapath.links[0]: "" is not a link's name`},
		{"long link", "[datapath]\nlinks = ['sixteen-bytes-xx']", `datapath.links[0]: "sixteen-bytes-xx" is not a link's name`},
		{"lo", "[datapath]\nlinks = ['eth0', 'lo']", `c.toml:2: datapath.links[1]: no client comes in by "lo"`},
		{"an agent's device", "[datapath]\nlinks = ['caplance0']", `c.toml:2: datapath.links[0]: no client comes in by "caplance0"`},
		{"link named twice", "[datapath]\nlinks = ['a', 'b', 'a']", `c.toml:2: datapath.links[2]: "a" is named twice`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseServer("c.toml", []byte(tt.head+service))
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v\nwant  %s", err, tt.want)
			}
		})
	}
}
