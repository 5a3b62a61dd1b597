package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/auth"
)

// validator turns raw values into typed ones and collects the findings.
type validator struct {
	doc  *Document
	errs []error

	files map[string]prefixFile    // by path
	lists map[string]*core.Clients // by what they are made of
}

func (v *validator) fail(err error) {
	if err != nil {
		v.errs = append(v.errs, err)
	}
}

func (v *validator) failf(key, format string, args ...any) {
	v.fail(v.doc.Errorf(key, format, args...))
}

func (v *validator) path(key, value string) string {
	if len(value) == 0 || value[0] != '/' {
		v.failf(key, "%q is not an absolute path", value)
	}
	return value
}

func (v *validator) metrics(key, value string) string {
	if value != "" {
		if a, err := netip.ParseAddrPort(value); err != nil || a.Port() == 0 {
			v.failf(key, "%q is not ADDRESS:PORT (like \"127.0.0.1:9338\")", value)
		}
	}
	return value
}

func (v *validator) datapathType(key, value string) core.DatapathType {
	t, err := core.ParseDatapathType(value)
	if err != nil {
		v.failf(key, "%w", err)
	}
	return t
}

func (v *validator) integer(key string, value, least, most int) int {
	if value < least || value > most {
		v.failf(key, "%d is out of range (%d to %d)", value, least, most)
	}
	return value
}

func (v *validator) duration(key, value string, least, most time.Duration) time.Duration {
	d, err := v.doc.Duration(key, value, least, most)
	v.fail(err)
	return d
}

func (v *validator) registry(raw rawRegistry) Registry {
	listen, err := netip.ParseAddrPort(raw.Listen)
	if err != nil || listen.Port() == 0 {
		listen = netip.AddrPort{}
		v.failf("registry.listen", "%q is not ADDRESS:PORT with a port from 1 to 65535 (like \"10.0.0.1:1338\" or \"[::]:1338\")", raw.Listen)
	}
	r := Registry{
		Listen:        listen,
		Lease:         v.duration("registry.lease", raw.Lease, 100*time.Millisecond, time.Hour),
		Grace:         v.duration("registry.grace", raw.Grace, 100*time.Millisecond, time.Hour),
		PlainLease:    v.duration("registry.plain_lease", raw.PlainLease, 100*time.Millisecond, time.Hour),
		Rejoin:        v.duration("registry.rejoin", raw.Rejoin, 0, time.Hour),
		WriteTimeout:  v.duration("registry.write_timeout", raw.WriteTimeout, 100*time.Millisecond, time.Hour),
		SanityTimeout: v.duration("registry.sanity_timeout", raw.SanityTimeout, 100*time.Millisecond, time.Minute),
		Limits: Limits{
			Connections: v.integer("registry.limits.connections", raw.Limits.Connections, 1, 1<<20),
			PerAddress:  v.integer("registry.limits.connections_per_address", raw.Limits.PerAddress, 1, 1<<20),
			Handshake:   v.duration("registry.limits.handshake", raw.Limits.Handshake, 100*time.Millisecond, time.Minute),
			Backends:    v.integer("registry.limits.backends", raw.Limits.Backends, 1, 1<<16),
			Lines:       v.integer("registry.limits.lines", raw.Limits.Lines, 1, 1<<20),
			Changes:     v.integer("registry.limits.changes", raw.Limits.Changes, 1, 1<<20),
			Records:     v.integer("registry.limits.records", raw.Limits.Records, 100, 1<<30),
			Sanity:      v.integer("registry.limits.sanity", raw.Limits.Sanity, 1, 1<<20),
		},
		DrainTimeout: v.duration("registry.drain_timeout", raw.DrainTimeout, 0, 24*time.Hour),
		Auth:         Auth(raw.Auth), Key: v.path("registry.key", raw.Key), Enrolled: v.path("registry.enrolled", raw.Enrolled),
	}
	r.Certificate = v.certificate(raw)
	r.Agents, r.Allow = v.networks("registry.agents", raw.Agents), v.networks("registry.allow", raw.Allow)
	switch {
	case r.Auth == AuthNone && len(r.Agents) == 0:
		v.failf("registry.agents", `auth = "none" lets in whoever is in these networks: they have to be listed (like "10.0.0.0/24")`)
	case r.Auth != AuthNone && len(r.Allow) > 0:
		v.failf("registry.allow", `it is for auth = "none"; with keys or certificates each [[agent]] has its own`)
	}
	return r
}

// certificate checks how agents are known, and returns the files that it takes.
func (v *validator) certificate(raw rawRegistry) (f auth.Files) {
	switch Auth(raw.Auth) {
	case AuthNone, AuthKeys, AuthCA:
	default:
		v.failf("registry.auth", "%q is not a way to know agents (keys, ca, none)", raw.Auth)
	}
	for _, k := range []struct {
		name, value, what string
		to                *string
	}{
		{"registry.ca_file", raw.CAFile, "the authority that signs agents' certificates", &f.CA},
		{"registry.cert_file", raw.CertFile, "this balancer's certificate", &f.Certificate},
		{"registry.key_file", raw.KeyFile, "its private key", &f.Key},
	} {
		switch ca := raw.Auth == string(AuthCA); {
		case ca && k.value == "":
			v.failf(k.name, `it is not set, and auth = "ca" takes ca_file, cert_file and key_file: %s`, k.what)
		case k.value == "":
		case !ca:
			v.failf(k.name, `it is for auth = "ca", and auth is %q`, raw.Auth)
		default:
			*k.to = v.path(k.name, k.value)
		}
	}
	return f
}

// ParseNetwork reads a network, or an address, which is one of a single address.
func ParseNetwork(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("%q is not a network or an address (like \"10.0.0.0/24\" or \"2001:db8::1\")", s)
	}
	return p, nil
}

func (v *validator) networks(key string, list []string) (out []netip.Prefix) {
	for i, s := range list {
		p, err := ParseNetwork(s)
		if err != nil {
			v.failf(fmt.Sprintf("%s[%d]", key, i), "%w", err)
		}
		if p.Addr().Is4In6() {
			v.failf(fmt.Sprintf("%s[%d]", key, i), "%q is a network of IPv4 that is written as IPv6, and would match nothing (write it like \"10.0.0.0/24\")", s)
		}
		out = append(out, p.Masked())
	}
	return out
}

func (v *validator) datapath(raw rawDatapath) Datapath {
	return Datapath{
		Type: v.datapathType("datapath.type", raw.Type), Links: v.links("datapath.links", raw.Links),
		Queues:      v.integer("datapath.queues", raw.Queues, 0, 256),
		FirstQueue:  uint16(v.integer("datapath.first_queue", raw.FirstQueue, 0, 65535-256)),
		QueueLength: uint32(v.integer("datapath.queue_length", raw.QueueLength, 64, 1<<20)),
		TunnelPort:  uint16(v.integer("datapath.tunnel_port", raw.TunnelPort, 1, 65535)),
		Flows:       v.integer("datapath.flows", raw.Flows, 1024, 1<<28),
		MaxBackends: v.integer("datapath.max_backends", raw.MaxBackends, 64, 1<<20),
		HostAccess:  v.hostAccess("datapath.vip_host_access", raw.HostAccess),
		Timeouts:    v.timeouts("datapath.timeouts", raw.Timeouts.own()),
	}
}

func (v *validator) hostAccess(key, value string) core.HostAccess {
	h, err := core.ParseHostAccess(value)
	if err != nil {
		v.failf(key, "%w", err)
	}
	return h
}

// timeouts leaves those zero that are not set.
func (v *validator) timeouts(key string, raw rawOwnTimeouts) core.Timeouts {
	one := func(name string, value *string) time.Duration {
		if value == nil {
			return 0
		}
		return v.duration(key+"."+name, *value, time.Second, 1000*time.Hour)
	}
	return core.Timeouts{
		TCP: one("tcp", raw.TCP), TCPSyn: one("tcp_syn", raw.TCPSyn), TCPFin: one("tcp_fin", raw.TCPFin),
		TCPHalfClosed: one("tcp_half_closed", raw.TCPHalfClosed), UDP: one("udp", raw.UDP),
	}
}

func (v *validator) policy(p Policy) Policy {
	v.integer("policy.max_module_bytes", p.MaxModuleBytes, 8, 1<<30)
	v.integer("policy.max_memory_pages", p.MaxMemoryPages, 1, 1<<16)
	v.integer("policy.max_depth", p.MaxDepth, 1, 1<<16)
	v.integer("policy.log_bytes", p.LogBytes, 0, 1<<30)
	v.integer("policy.pick_fuel", int(p.PickFuel), 1, 1<<40)
	v.integer("policy.call_fuel", int(p.CallFuel), 1, 1<<40)
	v.integer("policy.start_fuel", int(p.StartFuel), 1, 1<<40)
	return p
}

// links checks names of links as the kernel does (dev_valid_name of
// net/core/dev.c).
func (v *validator) links(key string, names []string) []string {
	for i, n := range names {
		key := fmt.Sprintf("%s[%d]", key, i)
		switch {
		case n == "" || len(n) > 15 || n == "." || n == ".." || strings.ContainsAny(n, "/: \t\n\v\f\r"):
			v.failf(key, "%q is not a link's name (1 to 15 bytes, without blanks, '/' and ':'; ip link lists those that there are)", n)
		case slices.Contains(core.Clientless, n):
			v.failf(key, "no client comes in by %q (leave it out: what the machine sends to itself is not balanced)", n)
		case slices.Contains(names[:i], n):
			v.failf(key, "%q is named twice", n)
		}
	}
	return names
}
