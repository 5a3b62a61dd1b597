package config

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caplance/caplance/core"
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
	Slow     string         `toml:"slow_start"`
	Upcalls  *int           `toml:"max_upcalls"`
}

// defaultUpcalls is less than one CPU's worker schedules in a second.
const defaultUpcalls = 50_000

// defaultService is what a [[service]] leaves out.
var defaultService = rawService{Protocol: "both", Policy: "hash", Mode: "tunnel"}

// services validates each [[service]] and then all of them together.
func (v *validator) services(raw []rawService) []*core.Service {
	if len(raw) == 0 {
		v.failf("service", "at least one [[service]] is needed")
	}
	var out []*core.Service
	for i := range raw {
		s := v.service(fmt.Sprintf("service[%d]", i), &raw[i])
		s.Index = uint16(i)
		for j, other := range out {
			if other.Name == s.Name {
				v.failf(fmt.Sprintf("service[%d].name", i), "%q names an earlier service too; names are unique", s.Name)
			}
			if p, ok := overlap(other, s); ok {
				v.failf(fmt.Sprintf("service[%d].ports", i), "%s port %s of VIP %v belongs to service %q already (service[%d])", core.ProtoName(p.proto), p.ports, s.VIP, other.Name, j)
			}
		}
		out = append(out, s)
	}
	return out
}

func (v *validator) service(key string, raw *rawService) *core.Service {
	if raw.Protocol == "" {
		raw.Protocol = defaultService.Protocol
	}
	if raw.Policy == "" {
		raw.Policy = defaultService.Policy
	}
	if raw.Mode == "" {
		raw.Mode = defaultService.Mode
	}
	s := &core.Service{Name: raw.Name, Policy: raw.Policy}
	if !serviceName.MatchString(raw.Name) {
		v.failf(key+".name", "%q is not a name (1 to 63 of letters, digits, '.', '_', '-')", raw.Name)
	}
	s.VIP = v.vip(key+".vip", raw.VIP)
	switch raw.Protocol {
	case "tcp":
		s.Protos = []uint8{core.ProtoTCP}
	case "udp":
		s.Protos = []uint8{core.ProtoUDP}
	case "both":
		s.Protos = []uint8{core.ProtoTCP, core.ProtoUDP}
	default:
		v.failf(key+".protocol", "%q is not a protocol (tcp, udp, both)", raw.Protocol)
	}
	s.Ports = v.ports(key+".ports", raw.Ports)
	var err error
	if s.Mode, err = core.ParseMode(raw.Mode); err != nil {
		v.failf(key+".mode", "%w", err)
	}
	s.Upcalls = defaultUpcalls
	if raw.Upcalls != nil {
		s.Upcalls = v.integer(key+".max_upcalls", *raw.Upcalls, 0, 1<<30)
	}
	if s.Config, err = policyJSON(raw.Config); err != nil {
		v.failf(key+".policy_config", "%w", err)
	}
	s.Policy, s.Shadow = v.policyFile(raw.Policy), v.policyFile(raw.Shadow)
	if raw.Slow != "" {
		s.SlowStart = v.duration(key+".slow_start", raw.Slow, 0, time.Hour)
	}
	s.Seed = defaultSeed(s.Name)
	if raw.Seed != nil {
		s.Seed = *raw.Seed
	}
	return s
}

// policyFile takes a policy's path relative to the file that names it, not to
// wherever the daemon runs.
func (v *validator) policyFile(spec string) string {
	if strings.ContainsRune(spec, '/') && !filepath.IsAbs(spec) {
		return filepath.Join(filepath.Dir(v.doc.path), spec)
	}
	return spec
}

func (v *validator) vip(key, value string) netip.Addr {
	a, err := netip.ParseAddr(value)
	if err != nil || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.IsLinkLocalUnicast() {
		v.failf(key, "%q is not an address that can be a VIP (a global IPv4 or IPv6 address like \"192.0.2.10\")", value)
	}
	return a.Unmap()
}

// ports reads a list of ports and ranges: [80, "8000-8080"].
func (v *validator) ports(key string, raw []any) []core.PortRange {
	if len(raw) == 0 {
		return []core.PortRange{core.AllPorts}
	}
	var out []core.PortRange
	for i, r := range raw {
		p, ok := portRange(r)
		if !ok {
			v.failf(fmt.Sprintf("%s[%d]", key, i), "%#v is not a port from 1 to 65535 or a range of them (like 80 or \"8000-8080\")", r)
			continue
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b core.PortRange) int { return int(a.First) - int(b.First) })
	for i := 1; i < len(out); i++ {
		if out[i].First <= out[i-1].Last {
			v.failf(key, "%s and %s overlap", out[i-1], out[i])
		}
	}
	return out
}

func portRange(raw any) (core.PortRange, bool) {
	text := fmt.Sprint(raw)
	first, last, isRange := strings.Cut(text, "-")
	if !isRange {
		last = first
	}
	a, err1 := strconv.ParseUint(first, 10, 16)
	b, err2 := strconv.ParseUint(last, 10, 16)
	ok := err1 == nil && err2 == nil && 1 <= a && a <= b
	return core.PortRange{First: uint16(a), Last: uint16(b)}, ok
}

type protoPorts struct {
	proto uint8
	ports core.PortRange
}

// overlap finds ports that two services both claim.
func overlap(a, b *core.Service) (protoPorts, bool) {
	if a.VIP != b.VIP {
		return protoPorts{}, false
	}
	for _, proto := range b.Protos {
		if !slices.Contains(a.Protos, proto) {
			continue
		}
		for _, x := range a.Ports {
			for _, y := range b.Ports {
				if both := (core.PortRange{First: max(x.First, y.First), Last: min(x.Last, y.Last)}); both.First <= both.Last {
					return protoPorts{proto, both}, true
				}
			}
		}
	}
	return protoPorts{}, false
}

// defaultSeed keys the flow hash of a service: not to be guessed from outside,
// and the same after a restart, so that consistent policies keep their flows.
func defaultSeed(service string) uint64 {
	id, err := os.ReadFile("/etc/machine-id")
	if err != nil || len(id) == 0 { // no such file in some containers
		id, _ = os.ReadFile("/proc/sys/kernel/random/boot_id")
	}
	sum := sha256.Sum256(append([]byte("caplance "+service+" "), id...))
	return binary.LittleEndian.Uint64(sum[:])
}
