package config

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/auth"
)

// value is a key with its value as the file writes it, never "".
type value struct{ key, text string }

// values returns every key outside [[service]], in the order of the reference
// file.
func (s *Server) values() []value {
	list := []value{
		{"state_dir", quote(s.StateDir)},
		{"control", quote(s.Control)},
		{"control_group", quote(s.ControlGroup)},
		{"control_read_group", quote(s.ControlReadGroup)},
		{"control_clients", number(s.ControlClients)},
		{"metrics", quote(s.Metrics)},
		{"metrics_connections", number(s.MetricsConnections)},
		{"metrics_pprof", fmt.Sprint(s.MetricsPprof)},
		{"log.level", quote(s.Log.Level)},
		{"log.format", quote(s.Log.Format)},
		{"log.file", quote(s.Log.File)},
		{"sandbox.capabilities", quote(s.Sandbox.Capabilities)},
		{"sandbox.paths", quoteAll(s.Sandbox.Paths)},
	}
	list = append(list, s.Registry.values()...)
	list = append(list, s.Datapath.values()...)
	return append(list, s.Policy.values()...)
}

func (r *Registry) values() []value {
	return []value{
		{"registry.listen", quote(r.Listen)},
		{"registry.agents", quoteAll(r.Agents)},
		{"registry.allow", quoteAll(r.Allow)},
		{"registry.lease", quote(r.Lease)},
		{"registry.grace", quote(r.Grace)},
		{"registry.plain_lease", quote(r.PlainLease)},
		{"registry.rejoin", quote(r.Rejoin)},
		{"registry.write_timeout", quote(r.WriteTimeout)},
		{"registry.sanity_timeout", quote(r.SanityTimeout)},
		{"registry.limits.connections", number(r.Limits.Connections)},
		{"registry.limits.connections_per_address", number(r.Limits.PerAddress)},
		{"registry.limits.handshake", quote(r.Limits.Handshake)},
		{"registry.limits.backends", number(r.Limits.Backends)},
		{"registry.limits.lines", number(r.Limits.Lines)},
		{"registry.limits.changes", number(r.Limits.Changes)},
		{"registry.limits.records", number(r.Limits.Records)},
		{"registry.limits.sanity", number(r.Limits.Sanity)},
		{"registry.drain_timeout", quote(r.DrainTimeout)},
		{"registry.auth", quote(r.Auth)},
		{"registry.key", r.keyValue()},
		{"registry.ca_file", r.certificateValue(r.Certificate.CA, true)},
		{"registry.cert_file", r.certificateValue(r.Certificate.Certificate, false)},
		{"registry.key_file", quote(r.Certificate.Key)},
		{"registry.enrolled", quote(r.Enrolled)},
	}
}

// keyValue returns the file with the key, and whose it is: another may have taken
// its place.
func (r *Registry) keyValue() string {
	pair, ok := r.Own.(*auth.KeyPair)
	if !ok {
		return quote(r.Key)
	}
	return fmt.Sprintf("%q (%s)", r.Key, pair.Public())
}

// certificateValue returns a file with certificates, and what tells them from others.
func (r *Registry) certificateValue(file string, authority bool) string {
	var marks []string
	for _, t := range auth.Terms(r.Own) {
		if t.Authority == authority {
			marks = append(marks, t.Fingerprint)
		}
	}
	if marks == nil {
		return quote(file)
	}
	return fmt.Sprintf("%q (%s)", file, strings.Join(marks, ", "))
}

func (d *Datapath) values() []value {
	return []value{
		{"datapath.type", quote(d.Type)},
		{"datapath.links", quoteAll(d.Links)},
		{"datapath.queues", number(d.Queues)},
		{"datapath.first_queue", number(d.FirstQueue)},
		{"datapath.queue_length", number(d.QueueLength)},
		{"datapath.tunnel_port", number(d.TunnelPort)},
		{"datapath.flows", number(d.Flows)},
		{"datapath.max_backends", number(d.MaxBackends)},
		{"datapath.vip_host_access", quote(d.HostAccess)},
		{"datapath.timeouts.tcp", quote(d.Timeouts.TCP)},
		{"datapath.timeouts.tcp_syn", quote(d.Timeouts.TCPSyn)},
		{"datapath.timeouts.tcp_fin", quote(d.Timeouts.TCPFin)},
		{"datapath.timeouts.tcp_half_closed", quote(d.Timeouts.TCPHalfClosed)},
		{"datapath.timeouts.udp", quote(d.Timeouts.UDP)},
	}
}

func (p *Policy) values() []value {
	return []value{
		{"policy.max_module_bytes", number(p.MaxModuleBytes)},
		{"policy.max_memory_pages", number(p.MaxMemoryPages)},
		{"policy.max_depth", number(p.MaxDepth)},
		{"policy.log_bytes", number(p.LogBytes)},
		{"policy.pick_fuel", number(p.PickFuel)},
		{"policy.call_fuel", number(p.CallFuel)},
		{"policy.start_fuel", number(p.StartFuel)},
	}
}

// serviceValues returns every key of a [[service]] but its name.
func serviceValues(s *core.Service) []value {
	config := "{}"
	if len(s.Config) > 0 {
		config = string(s.Config)
	}
	return []value{
		{"vip", quote(s.VIP)},
		{"protocol", quote(s.Protocol())},
		{"ports", quote(s.PortList())},
		{"policy", quote(s.Policy)},
		{"policy_config", config},
		{"mode", quote(s.Mode)},
		{"max_upcalls", number(s.Upcalls)},
		{"max_new_flows", number(s.NewFlows)},
		{"source_prefix_ipv4", number(s.SourcePrefix4)},
		{"source_prefix_ipv6", number(s.SourcePrefix6)},
		{"allow", quoteAll(s.Allow)},
		{"deny", quoteAll(s.Deny)},
		{"allow_file", clientFile(s.AllowFile)},
		{"deny_file", clientFile(s.DenyFile)},
		{"seed", number(s.Seed)},
		{"removed_flows", quote(s.Removed)},
		{"no_backend", quote(s.Unserved)},
		{"on_expire", quote(s.Expired)},
		{"udp", quote(s.UDP)},
		{"icmp_echo", quote(s.Echo)},
		{"slow_start", quote(s.SlowStart)},
		{"panic_threshold", number(s.Panic)},
		{"min_backends", number(s.MinBackends)},
		{"expected", quoteAll(s.Expected)},
		{"shadow", quote(s.Shadow)},
		{"timeouts.tcp", own(s.Timeouts.TCP)},
		{"timeouts.tcp_syn", own(s.Timeouts.TCPSyn)},
		{"timeouts.tcp_fin", own(s.Timeouts.TCPFin)},
		{"timeouts.tcp_half_closed", own(s.Timeouts.TCPHalfClosed)},
		{"timeouts.udp", own(s.Timeouts.UDP)},
	}
}

// staticValues returns every key of a [[service.backend]] but its name.
func staticValues(b *StaticBackend) []value {
	return []value{
		{"address", quote(b.Backend.Addr)},
		{"mode", quote(b.Backend.Mode)},
		{"weight", number(b.Backend.Weight)},
		{"priority", number(b.Backend.Priority)},
		{"max_flows", number(b.Backend.MaxFlows)},
		{"check", b.Check.String()},
	}
}

// agentValues returns every key of an [[agent]] but its name.
func agentValues(a *auth.Agent) []value {
	return []value{
		{"keys", quoteAll(a.Keys)},
		{"san", quoteAll(a.SANs)},
		{"allow", quoteAll(a.Allow)},
		{"services", quoteAll(a.Services)},
		{"max_weight", number(a.MaxWeight)},
		{"max_names", number(a.MaxNames)},
	}
}

// clientFile returns the file, and what tells its content from another.
func clientFile(f core.ClientFile) string {
	if f.Path == "" {
		return quote(f.Path)
	}
	return fmt.Sprintf("%q (%s)", f.Path, f.Sum)
}

// own returns a timeout that a service may leave out.
func own(d time.Duration) string {
	if d == 0 {
		return "as in [datapath.timeouts]"
	}
	return quote(d)
}

func number[T int | int64 | uint16 | uint32 | uint64](n T) string { return fmt.Sprint(n) }

func quote[T ~string | time.Duration | netip.Addr | netip.AddrPort | core.Mode | core.RemovedFlows | core.Unserved | core.ExpiredFlows | core.UDPMode | core.Echo | core.HostAccess](v T) string {
	return fmt.Sprintf("%q", fmt.Sprint(v))
}

func quoteAll[T string | netip.Prefix | auth.PublicKey | auth.Pattern](list []T) string {
	words := make([]string, len(list))
	for i, v := range list {
		words[i] = fmt.Sprintf("%q", fmt.Sprint(v))
	}
	return "[" + strings.Join(words, ", ") + "]"
}
