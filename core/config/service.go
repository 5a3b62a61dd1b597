package config

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/protocol"
)

type rawService struct {
	Name     string         `toml:"name"`
	VIP      string         `toml:"vip"`
	Protocol string         `toml:"protocol"`
	Ports    []any          `toml:"ports"`
	Policy   string         `toml:"policy"`
	Config   map[string]any `toml:"policy_config"`
	Mode     string         `toml:"mode"`
	Seed     *uint64        `toml:"seed"`
	Shadow   string         `toml:"shadow"`
	Slow     string         `toml:"slow_start" is:"duration"`
	Upcalls  *int           `toml:"max_upcalls"`
	Removed  string         `toml:"removed_flows"`
	Nobody   string         `toml:"no_backend"`
	Expired  string         `toml:"on_expire"`
	Timeouts rawOwnTimeouts `toml:"timeouts"`
	UDP      string         `toml:"udp"`
	Echo     string         `toml:"icmp_echo"`
	Panic    *int           `toml:"panic_threshold"`
	Least    *int           `toml:"min_backends"`
	Expected []string       `toml:"expected"`

	Allow     []string `toml:"allow"`
	Deny      []string `toml:"deny"`
	AllowFile string   `toml:"allow_file"`
	DenyFile  string   `toml:"deny_file"`

	Backends []rawBackend `toml:"backend"`

	NewFlows int  `toml:"max_new_flows"`
	Source4  *int `toml:"source_prefix_ipv4"`
	Source6  *int `toml:"source_prefix_ipv6"`
}

// defaultUpcalls is less than one CPU's worker schedules in a second.
const defaultUpcalls = 50_000

// What a client is that is alone: an address of IPv4, a network of IPv6.
const defaultSource4, defaultSource6 = 32, 64

// defaultService is what a [[service]] leaves out.
var defaultService = rawService{Protocol: "both", Policy: "hash", Mode: "tunnel", Slow: "0s", Removed: "drain", Nobody: "reset", Expired: "forget", UDP: "flow", Echo: "always",
	Upcalls: new(defaultUpcalls), Panic: new(0), Least: new(0), Source4: new(defaultSource4), Source6: new(defaultSource6)}

// services validates each [[service]] and then all of them together.
func (v *validator) services(raw []rawService) []*core.Service {
	if len(raw) == 0 {
		v.failf("service", "at least one [[service]] is needed")
	}
	if len(raw) > core.MaxServices {
		v.failf("service", "%d services are too many (at most %d)", len(raw), core.MaxServices)
	}
	var out []*core.Service
	for i := range raw {
		s := v.service(fmt.Sprintf("service[%d]", i), &raw[i])
		v.apart(i, s, out)
		out = append(out, s)
	}
	v.echoes(raw, out)
	return out
}

// echoes gives all services of a VIP the icmp_echo that one of them sets, since a
// ping is to a VIP and not to a service. Others must agree.
func (v *validator) echoes(raw []rawService, services []*core.Service) {
	by := map[netip.Addr]int{} // who set it
	for i, s := range services {
		if raw[i].Echo == "" {
			continue
		}
		j, set := by[s.VIP]
		if set && services[j].Echo != s.Echo {
			v.failf(fmt.Sprintf("service[%d].icmp_echo", i), "%q contradicts %q of service %q (service[%d]), which has the same vip %v: a VIP answers to pings in one way",
				s.Echo, services[j].Echo, services[j].Name, j, s.VIP)
			continue
		}
		by[s.VIP] = i
	}
	for _, s := range services {
		if j, set := by[s.VIP]; set {
			s.Echo = services[j].Echo
		}
	}
}

// apart compares a service with those before it in the file.
func (v *validator) apart(i int, s *core.Service, before []*core.Service) {
	for j, other := range before {
		if other.Name == s.Name {
			v.failf(fmt.Sprintf("service[%d].name", i), "%q names an earlier service too; names are unique", s.Name)
		}
		if p, ok := overlap(other, s); ok {
			v.failf(fmt.Sprintf("service[%d].ports", i), "%s port %s of VIP %v belongs to service %q already (service[%d])",
				core.ProtoName(p.proto), p.ports, s.VIP, other.Name, j)
		}
	}
}

func (v *validator) service(key string, raw *rawService) *core.Service {
	s := &core.Service{
		Name:      v.serviceName(key+".name", raw.Name),
		VIP:       v.vip(key+".vip", raw.VIP),
		Protos:    v.protocols(key+".protocol", cmp.Or(raw.Protocol, defaultService.Protocol)),
		Ports:     v.ports(key+".ports", raw.Ports),
		Policy:    v.policyFile(cmp.Or(raw.Policy, defaultService.Policy)),
		Shadow:    v.policyFile(raw.Shadow),
		SlowStart: v.duration(key+".slow_start", cmp.Or(raw.Slow, defaultService.Slow), 0, time.Hour),
		Upcalls:   defaultUpcalls,

		SourcePrefix4: defaultSource4, SourcePrefix6: defaultSource6,
		Timeouts: v.timeouts(key+".timeouts", raw.Timeouts),
		Seed:     defaultSeed(raw.Name),
	}
	var err error
	if s.Mode, err = core.ParseMode(cmp.Or(raw.Mode, defaultService.Mode)); err != nil {
		v.failf(key+".mode", "%w", err)
	}
	if s.Removed, err = core.ParseRemovedFlows(cmp.Or(raw.Removed, defaultService.Removed)); err != nil {
		v.failf(key+".removed_flows", "%w", err)
	}
	if s.Unserved, err = core.ParseUnserved(cmp.Or(raw.Nobody, defaultService.Nobody)); err != nil {
		v.failf(key+".no_backend", "%w", err)
	}
	if s.Expired, err = core.ParseExpiredFlows(cmp.Or(raw.Expired, defaultService.Expired)); err != nil {
		v.failf(key+".on_expire", "%w", err)
	}
	if s.Echo, err = core.ParseEcho(cmp.Or(raw.Echo, defaultService.Echo)); err != nil {
		v.failf(key+".icmp_echo", "%w", err)
	}
	s.UDP = v.udp(key+".udp", cmp.Or(raw.UDP, defaultService.UDP), s)
	v.ofProtocol(key, raw, s)
	v.clients(key, raw, s)
	s.NewFlows = v.integer(key+".max_new_flows", raw.NewFlows, 0, 1_000_000)
	if raw.Source4 != nil {
		s.SourcePrefix4 = v.integer(key+".source_prefix_ipv4", *raw.Source4, 1, 32)
	}
	if raw.Source6 != nil {
		s.SourcePrefix6 = v.integer(key+".source_prefix_ipv6", *raw.Source6, 1, 128)
	}
	if s.Config, err = policyJSON(raw.Config); err != nil {
		v.failf(key+".policy_config", "%w", err)
	}
	if raw.Upcalls != nil {
		s.Upcalls = v.integer(key+".max_upcalls", *raw.Upcalls, 0, 1<<30)
	}
	if raw.Panic != nil {
		s.Panic = v.integer(key+".panic_threshold", *raw.Panic, 0, 100)
	}
	if raw.Least != nil {
		s.MinBackends = v.integer(key+".min_backends", *raw.Least, 0, 1<<16)
	}
	s.Expected = raw.Expected
	for i, name := range s.Expected {
		if !protocol.ValidName(name) {
			v.failf(fmt.Sprintf("%s.expected[%d]", key, i), "%q is not a backend's name", name)
		}
	}
	if raw.Seed != nil {
		s.Seed = *raw.Seed
	}
	return s
}

// serviceName checks a name, which is one that agents can ask for, and that no
// command takes for a flag or a hidden file.
func (v *validator) serviceName(key, name string) string {
	if name == "" {
		v.failf(key, "it is missing: a service has a name (like \"web\")")
		return name
	}
	if !protocol.ValidName(name) || strings.ContainsRune("._-", rune(name[0])) {
		v.failf(key, "%q is not a name (1 to %d of letters, digits, '.', '_', '-'; the first one a letter or digit)", name, protocol.MaxName)
	}
	return name
}

func (v *validator) protocols(key, name string) []uint8 {
	switch strings.ToLower(name) {
	case "tcp":
		return []uint8{core.ProtoTCP}
	case "udp":
		return []uint8{core.ProtoUDP}
	case "both":
		return []uint8{core.ProtoTCP, core.ProtoUDP}
	}
	v.failf(key, "%q is not a protocol (tcp, udp, both)", name)
	return nil
}

func (v *validator) udp(key, value string, s *core.Service) core.UDPMode {
	mode, err := core.ParseUDPMode(value)
	switch {
	case err != nil:
		v.failf(key, "%w", err)
	case mode == core.UDPDatagram && !slices.Contains(s.Protos, core.ProtoUDP):
		v.failf(key, "%q is nothing to a service of TCP alone (remove it, or set protocol to udp or both)", value)
	}
	return mode
}

// ofProtocol refuses what is said of a protocol that the service does not have.
func (v *validator) ofProtocol(key string, raw *rawService, s *core.Service) {
	nothing := func(set bool, name string, proto uint8, other string) {
		if set && !slices.Contains(s.Protos, proto) {
			v.failf(key+"."+name, "it is nothing to a service of %s alone (remove it, or set protocol to both)", other)
		}
	}
	t := &raw.Timeouts
	nothing(s.Expired == core.ResetExpired, "on_expire", core.ProtoTCP, "UDP")
	nothing(t.TCP != nil, "timeouts.tcp", core.ProtoTCP, "UDP")
	nothing(t.TCPSyn != nil, "timeouts.tcp_syn", core.ProtoTCP, "UDP")
	nothing(t.TCPFin != nil, "timeouts.tcp_fin", core.ProtoTCP, "UDP")
	nothing(t.TCPHalfClosed != nil, "timeouts.tcp_half_closed", core.ProtoTCP, "UDP")
	nothing(t.UDP != nil, "timeouts.udp", core.ProtoUDP, "TCP")
}

// policyJSON returns a service's policy_config as its policy gets it.
func policyJSON(table map[string]any) ([]byte, error) {
	if len(table) == 0 {
		return nil, nil
	}
	return json.Marshal(table)
}

// policyFile returns the path of a policy that is a file.
func (v *validator) policyFile(spec string) string {
	if strings.ContainsRune(spec, '/') {
		return v.beside(spec)
	}
	return spec
}

// beside takes a path relative to the file that names it, not to wherever the daemon
// runs.
func (v *validator) beside(path string) string {
	if path != "" && !filepath.IsAbs(path) {
		return filepath.Join(filepath.Dir(v.doc.path), path)
	}
	return path
}

func (v *validator) vip(key, value string) netip.Addr {
	if value == "" {
		v.failf(key, "it is missing: a service has an address (like \"192.0.2.10\")")
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(value)
	a = a.Unmap()
	if err != nil || a.Zone() != "" || core.Special(a) != "" {
		v.failf(key, "%q is not an address that can be a VIP (a global IPv4 or IPv6 address like \"192.0.2.10\")", value)
	}
	return a
}
