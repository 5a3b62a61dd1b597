package agent

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"

	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/probe"
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
	}{{reflect.TypeFor[raw](), nil}, {reflect.TypeFor[config.Log](), []string{"log"}}, {reflect.TypeFor[config.Sandbox](), []string{"sandbox"}}} {
		for f := range typ.of.Fields() {
			if key := append(typ.prefix, f.Tag.Get("toml")); !md.IsDefined(key...) {
				t.Errorf("%s lacks %s", path, strings.Join(key, "."))
			}
		}
	}
	for f := range reflect.TypeFor[probe.Table]().Fields() {
		if key := f.Tag.Get("toml"); !strings.Contains(string(data), "\n"+key+" = ") {
			t.Errorf("%s lacks check.%s", path, key)
		}
	}
	if c, err := Parse(path, data); err != nil || len(c.Checks) != 1 || !reflect.DeepEqual(normal(c.Checks[0]), probe.Default()) {
		t.Errorf("the check of the file is not the default: %+v, %v", c.Checks, err)
	}
	want := defaults()
	want.Check = got.Check
	want.Server, want.Services, want.VIPs, want.BalancerKeys, want.BalancerNames, want.VIPNetworks = got.Server, []string{}, []string{}, []string{}, []string{}, []string{}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("defaults of the code (-) and the file (+) differ:\n%s", diff)
	}
}

// normal returns a check without the difference between no command and an empty one.
func normal(s probe.Spec) probe.Spec {
	if len(s.Command) == 0 {
		s.Command = nil
	}
	return s
}

func TestParseConfig(t *testing.T) {
	c, err := Parse("a.toml", []byte(`
server = "lb.example"
name = "b1"
data_ip = "2001:db8::5"
stop = "deregister"
services = ["web"]
vips = ["192.0.2.1"]
[[check]]
service = "web"
type = "http"
path = "/up"
fall = 1
[[check]]
service = "*"
type = "tcp"
address = "127.0.0.1:80"
`))
	if err != nil {
		t.Fatal(err)
	}
	if c.Server != "lb.example:1338" || c.DataIP != netip.MustParseAddr("2001:db8::5") || c.Drain ||
		len(c.Checks) != 2 || c.Port != 1337 || len(c.VIPs) != 1 {
		t.Errorf("%+v", c)
	}
	for in, want := range map[string]string{"::1": "[::1]:1338", "[::1]:5": "[::1]:5", "10.0.0.1": "10.0.0.1:1338", "lb:99": "lb:99"} {
		if c, err := Parse("a.toml", []byte("server = '"+in+"'")); err != nil || c.Server != want {
			t.Errorf("server %s became %s, %v, want %s", in, c.Server, err, want)
		}
	}
}

func TestParseConfigRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                       "a.toml: server: the balancer's registry is missing",
		"server = 'lb:0'":                        `a.toml:1: server: "lb:0" is not host:port`,
		"name = 'a b'":                           "name: ",
		"data_ip = '0.0.0.0'":                    "data_ip: ",
		"data_ip = '127.0.0.1'":                  "a.toml:1: data_ip: 127.0.0.1 is a loopback address and cannot be reached from a balancer (set an address",
		"data_ip = '255.255.255.255'":            "data_ip: 255.255.255.255 is the broadcast address and cannot be reached",
		"data_ip = '240.1.2.3'":                  "data_ip: 240.1.2.3 is a reserved address (class E) and cannot be reached",
		"data_ip = '169.254.1.1'":                "data_ip: 169.254.1.1 is a link-local address and cannot be reached",
		"data_ip = '0.1.2.3'":                    "data_ip: 0.1.2.3 is an unspecified address and cannot be reached",
		"data_ip = 'fe80::1'":                    "a.toml:1: data_ip: fe80::1 is a link-local address and cannot be reached",
		"server = 'a,b'":                         `a.toml:1: server: "a,b" is not host:port of one balancer`,
		"server = '10.0.0.1:1338,10.0.0.2:1338'": "a.toml:1: server: ",
		"server = '[::1:5'":                      "a.toml:1: server: ",
		"server = '10.0.0.1'\nvips = ['192.0.2.1', '10.0.0.1']":      "a.toml:2: vips[1]: 10.0.0.1 is the server's address",
		"data_ip = '10.0.0.11'\nvips = ['10.0.0.11']\nserver = 'lb'": "a.toml:2: vips[0]: 10.0.0.11 is the data_ip",
		"vips = ['::1']":  "a.toml:1: vips[0]: ::1 is a loopback address and cannot be reached by clients",
		"tunnel_port = 0": "tunnel_port: 0 is out of range (1 to 65535)",
		"weight = 70000":  "weight: 70000 is out of range",
		"services = ['ok', 'not ok']\nserver='x'": `a.toml:1: services[1]: "not ok" is not a service's name`,
		"vips = ['x']":                                          `vips[0]: "x" is not a unicast IP address`,
		"vip_networks = ['192.0.2.1/24']":                       `a.toml:1: vip_networks[0]: "192.0.2.1/24" has bits beside its network: write "192.0.2.0/24"`,
		"read_timeout = 'often'":                                `read_timeout: "often" is not a duration`,
		"[[check]]\ntype = 'ftp'":                               `a.toml:2: check[0].type: "ftp" is not a type of check (listen, tcp,`,
		"[[check]]\nservice = 'a b'":                            `a.toml:2: check[0].service: "a b" is not a service's name, or *`,
		"[[check]]\nservice = '*'":                              "check[0].address: a check of the backend as a whole",
		"[[check]]\ntype = 'tcp'\naddress = 'x'":                `a.toml:3: check[0].address: "x" is not host:port`,
		"[[check]]\ntype = 'tcp'\npath = '/x'":                  `a.toml:3: check[0].path: it is for type http and https, this is tcp`,
		"[[check]]\ntype = 'http'\npath = 'x'":                  `check[0].path: "x" is not a path`,
		"[[check]]\ntype = 'http'\nstatus = '2xx'":              `check[0].status: "2xx" is not a status`,
		"[[check]]\ntype = 'script'\ncommand = ['check']":       "check[0].command: a script is a list that begins with an absolute path",
		"[[check]]\ncommand = ['/bin/true']":                    "check[0].command: it is for type script, this is listen",
		"[[check]]\ntype = 'dns'":                               `check[0].query: "": a check of type dns`,
		"[[check]]\nquery = 'x'":                                `check[0].query: "x": a check of type dns, and no other`,
		"[[check]]\naddress = 'localhost:80'":                   "check[0].address: \"localhost:80\": to see who listens takes an IP address",
		"[[check]]\ntype = 'tcp'\nverify = true":                "check[0].verify: it is for type https",
		"[[check]]\ntype = 'http'\npath = '/%zz'":               `check[0].path: "/%zz" is not a path`,
		"[[check]]\ntype = 'http'\nhost = 'a b'":                `check[0].host: "a b" is not a host`,
		"[[check]]\ntype = 'dns'\nquery = 'a..b'":               `check[0].query: "a..b" is no name of DNS`,
		"[[check]]\nfall = 0":                                   "check[0].fall: 0 is out of range",
		"[[check]]\ninterval = '1'":                             `check[0].interval: "1" has no unit: write "1s"`,
		"stop = 'now'":                                          `stop: "now" is not a way to stop (drain, deregister)`,
		"control = 'x.sock'":                                    "control: ",
		"[log]\nlevel = 'loud'":                                 `a.toml:2: log.level: "loud"`,
		"key = 'k'":                                             `a.toml:1: key: "k" is not an absolute path`,
		"key = '/k'":                                            "a.toml: balancer_keys: key is set, and so has to be",
		"balancer_keys = ['" + auth.PublicKey{}.String() + "']": "a.toml: key: balancer_keys is set",
		"balancer_keys = ['x']":                                 `a.toml:1: balancer_keys[0]: "x" is not a public key`,
		"key = '/k'\ncert_file = '/c'":                          "a.toml:1: key: an agent has a key or a certificate, not both",
		"cert_file = '/c'":                                      "a.toml: ca_file: it is not set, and a certificate takes",
		"ca_file = '/c'\nkey_file = '/k'":                       "a.toml: balancer_names: it is not set: whoever has a certificate of the authority could pose as the balancer",
		"balancer_names = ['lb']":                               "a.toml: cert_file: it is not set",
		"balancer_names = ['*.*.x']":                            `a.toml:1: balancer_names[0]: "*.*.x" is not a name of certificates: it has more than one *`,
		"key_file = 'k'":                                        `a.toml:1: key_file: "k" is not an absolute path`,
		"serve = 'x'":                                           "a.toml:1: serve: unknown key; did you mean server? (allowed here: balancer_keys, balancer_names, ca_file,",
	} {
		if _, err := Parse("a.toml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v\nwant %s", text, err, want)
		}
	}
}

// A key that is not there is an error that says how to make it.
func TestLoadKey(t *testing.T) {
	dir := t.TempDir()
	file, key := filepath.Join(dir, "a.toml"), filepath.Join(dir, "k")
	public := auth.NewKeyPair().Public()
	if err := os.WriteFile(file, []byte("server = 'lb'\nname = 'b1'\nkey = '"+key+"'\nbalancer_keys = ['"+public.String()+"']\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(file); err == nil || !strings.Contains(err.Error(), "a.toml:3: key: open "+key) || !strings.Contains(err.Error(), "caplance keygen "+key) {
		t.Errorf("without a key: %v", err)
	}
	pair := auth.NewKeyPair()
	if err := pair.Save(key); err != nil {
		t.Fatal(err)
	}
	c, err := Load(file)
	if err != nil || c.Own.Identity().Key != pair.Public() || len(c.BalancerKeys) != 1 || c.BalancerKeys[0] != public {
		t.Errorf("%+v, %v", c, err)
	}
}
