package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/probe"
	"github.com/caplance/caplance/core/protocol"
)

// StaticBackend is a backend without an agent, as a [[service.backend]] names it. It is
// in that service alone; one that serves several is listed with each.
type StaticBackend struct {
	Key     string       // where it stands in the file: service[0].backend[1]
	Backend core.Backend // without its state
	Check   probe.Spec
}

// rawBackend mirrors a [[service.backend]].
type rawBackend struct {
	Name     string       `toml:"name"`
	Address  string       `toml:"address"`
	Mode     string       `toml:"mode"`
	Weight   *int         `toml:"weight"`
	Priority int          `toml:"priority"`
	MaxFlows int          `toml:"max_flows"`
	Check    *probe.Table `toml:"check"`
}

// statics validates the backends of all services, and orders them as
// core.CompareBackends does.
func (v *validator) statics(raw []rawService, services []*core.Service) (out []StaticBackend) {
	addrs, vips := map[string]netip.Addr{}, map[netip.Addr]string{} // by name; the services' names
	for _, svc := range services {
		vips[svc.VIP] = cmp.Or(vips[svc.VIP], svc.Name)
	}
	for i := range raw {
		named, at := map[string]bool{}, map[netip.Addr]string{} // in this service
		for j := range raw[i].Backends {
			key := fmt.Sprintf("service[%d].backend[%d].", i, j)
			b := v.static(key, &raw[i].Backends[j], services[i])
			name, addr := b.Backend.Name, b.Backend.Addr
			if other, ok := addrs[name]; ok && other != addr {
				v.failf(key+"address", "backend %s has another address in another service (%v): give each machine a name of its own", name, other)
			}
			switch other, taken := at[addr]; {
			case named[name]:
				v.failf(key+"name", "the service has a backend %q already", name)
			case taken:
				v.failf(key+"address", "backend %s of the service has address %v, too", other, addr)
			}
			if svc, ok := vips[addr]; ok && addr.IsValid() {
				v.failf(key+"address", "%v is the VIP of service %s: its packets would come back to the balancer (give the backend's own address)", addr, svc)
			}
			addrs[name], named[name], at[addr] = addr, true, name
			out = append(out, b)
		}
	}
	slices.SortFunc(out, func(a, b StaticBackend) int { return core.CompareBackends(&a.Backend, &b.Backend) })
	return out
}

func (v *validator) static(key string, raw *rawBackend, svc *core.Service) StaticBackend {
	if raw.Name == "" {
		v.failf(key+"name", "it is missing: a backend has a name (like \"web1\")")
	} else if !protocol.ValidName(raw.Name) {
		v.failf(key+"name", "%q is not 1 to %d of A-Z a-z 0-9 . _ -", raw.Name, protocol.MaxName)
	}
	addr, err := netip.ParseAddr(raw.Address)
	addr = addr.Unmap()
	if raw.Address == "" {
		v.failf(key+"address", "it is missing: where is the backend (like \"10.0.0.21\")?")
	} else if err != nil || addr.Zone() != "" {
		v.failf(key+"address", "%q is not an IP address", raw.Address)
	} else if is := core.Special(addr); is != "" {
		v.failf(key+"address", "%v is %s: no packet of the balancer's gets there", addr, is)
	}
	b := core.Backend{
		Name: raw.Name, Addr: addr, Services: []string{svc.Name}, Weight: 1, Static: true, Mode: svc.Mode,
		Priority: uint32(v.integer(key+"priority", raw.Priority, 0, protocol.MaxWeight)),
		MaxFlows: uint32(v.integer(key+"max_flows", raw.MaxFlows, 0, 1<<31-1)),
		// Whatever takes packets out of a tunnel there is a kernel (FOU).
		KernelDecap: true,
	}
	if raw.Weight != nil {
		b.Weight = uint32(v.integer(key+"weight", *raw.Weight, 0, protocol.MaxWeight))
	}
	if raw.Mode != "" {
		if b.Mode, err = core.ParseMode(raw.Mode); err != nil {
			v.failf(key+"mode", "%w", err)
		}
	}
	if b.Mode == core.ModeDirect && addr.IsValid() && svc.VIP.IsValid() && addr.Is4() != svc.VIP.Is4() {
		v.failf(key+"address", "%v is of another family than vip %v: mode direct sends packets as they are (give the backend's address of the VIP's family)", addr, svc.VIP)
	}
	if b.Mode == core.ModeTunnel && addr.IsValid() && svc.VIP.IsValid() && !(addr.Is4() && svc.VIP.Is4()) {
		v.failf(key+"mode", "a backend's kernel takes IPv4 out of IPv4 at the tunnel's port (FOU), and vip %v or address %v is not (set mode = \"direct\", or have an agent there)", svc.VIP, addr)
	}
	return StaticBackend{strings.TrimSuffix(key, "."), b, v.staticCheck(key+"check.", raw.Check, &b, svc)}
}

// staticCheck returns the check of a backend: without one, whether its service's first
// port can be connected to.
func (v *validator) staticCheck(key string, raw *probe.Table, b *core.Backend, svc *core.Service) probe.Spec {
	table := probe.Table{Type: string(probe.TCP)}
	if !slices.Contains(svc.Protos, core.ProtoTCP) {
		table.Type = string(probe.UDP)
	}
	if raw != nil {
		raw.Type = cmp.Or(raw.Type, table.Type)
		table = *raw
	}
	if table.Service != "" {
		v.failf(key+"service", "the check is of this backend in service %s (take it out)", svc.Name)
	}
	if table.Type == string(probe.Listen) {
		v.failf(key+"type", "only an agent on the backend sees who listens there (take tcp, http, https, dns, udp, script or none)")
		return probe.Spec{}
	}
	s := table.Spec(key, probe.Reader{
		Failf: v.failf,
		Duration: func(key, value string) time.Duration {
			return v.duration(key, value, 100*time.Millisecond, 24*time.Hour)
		},
	})
	s.Service, s.Backend = svc.Name, b.Name
	if s.Address == "" && s.Kind != probe.None && s.Kind != probe.Script && len(svc.Ports) > 0 && svc.Ports[0] == core.AllPorts {
		v.failf(key+"address", "service %s has all ports: say which one to ask (host:port), or set type to none", svc.Name)
	}
	return s
}
