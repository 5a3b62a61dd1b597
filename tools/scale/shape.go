package main

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/caplance/caplance/core/auth"
)

// shape is one case: how large the installation is.
type shape struct {
	name     string
	services int // each with a VIP of its own
	ports    int // ranges of each
	width    int // ports of each range
	backends int
	each     int // services of each backend
	queues   int // 0: one per CPU
	lost     int // backends whose connections break at once
}

// cases are what the targets are stated for.
var cases = []shape{
	{name: "services", services: 1000, ports: 1, width: 1, backends: 1000, each: 20, lost: 500},
	{name: "backends", services: 10, ports: 1, width: 1, backends: 1000, each: 10, lost: 500},
	{name: "vips", services: 1000, ports: 4, width: 50},
	{name: "ports", services: 24, ports: 133, width: 1},
	{name: "queues", services: 1, ports: 1, width: 1, queues: 48},
}

func names(list []shape) (out []string) {
	for _, c := range list {
		out = append(out, c.name)
	}
	return out
}

// small returns the case at a size for a test.
func (s shape) small() shape {
	tenth := func(n int) int {
		if n < 100 {
			return n
		}
		return n / 10
	}
	s.services, s.backends, s.lost = tenth(s.services), tenth(s.backends), tenth(s.lost)
	s.queues = min(s.queues, 4)
	return s
}

// members returns how many backends each service has.
func (s shape) members() int { return s.backends * s.each / s.services }

// serves returns the services of the i-th backend, spread evenly.
func (s shape) serves(i int) (out []string) {
	for j := range s.each {
		out = append(out, serviceName((i*s.each/s.members()+j*s.services/s.each)%s.services))
	}
	return out
}

func serviceName(i int) string { return fmt.Sprintf("s%d", i) }

// The addresses, in 10.77.0.0/16 of the balancer's link and behind its router.
var (
	lbAddr     = netip.MustParsePrefix("10.77.0.1/16")
	agentsAddr = netip.MustParsePrefix("10.77.0.2/16")
	farNet     = netip.MustParsePrefix("10.78.0.0/16")
)

func vip(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 77, byte(128 + i/250), byte(i%250 + 1)})
}

// near is how many backends are on the balancer's link: the kernel keeps no more
// than 1024 neighbours of all namespaces (gc_thresh3). The others are behind a
// router.
const near = 400

func dataIP(i int) netip.Addr {
	net := byte(77)
	if i >= near {
		net = 78
	}
	return netip.AddrFrom4([4]byte{10, net, byte(1 + i/250), byte(i%250 + 1)})
}

// config returns the balancer's file, where all agents have one key.
func (s shape) config(dir string, agents auth.PublicKey) string {
	var b strings.Builder
	fmt.Fprintf(&b, `state_dir = %q
control = %q
[datapath]
max_backends = 32768
queues = %d
[registry]
listen = "0.0.0.0:1338"
agents = ["10.77.0.0/16", "10.78.0.0/16"]
key = %q
[[agent]]
name = "b"
keys = [%q]
allow = ["10.77.0.0/16", "10.78.0.0/16"]
max_names = %d
`, dir+"/lb", dir+"/lb.sock", s.queues, dir+"/lb.key", agents, s.backends+2)
	for i := range s.services {
		fmt.Fprintf(&b, "[[service]]\nname = %q\nvip = %q\nprotocol = \"tcp\"\nports = [%s]\n", serviceName(i), vip(i), s.portList())
	}
	return b.String()
}

// portList returns ranges with a gap after each, so that none are one.
func (s shape) portList() string {
	var out []string
	for i := range s.ports {
		first := 80 + i*(s.width+1)
		if s.width == 1 {
			out = append(out, fmt.Sprint(first))
			continue
		}
		out = append(out, fmt.Sprintf(`"%d-%d"`, first, first+s.width-1))
	}
	return strings.Join(out, ", ")
}
