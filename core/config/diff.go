package config

import (
	"fmt"
	"slices"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/auth"
)

// Change is a difference between two configurations.
type Change struct {
	Key      string // like datapath.flows or service "web".ports; service "web" when it is added or removed
	From, To string // as the file writes them; "" where there is no such service
	Live     bool   // a running balancer can take it
	Why      string // why it cannot, or what becomes of the flows; often ""
}

func (c Change) String() string {
	text := c.Key + ": "
	switch {
	case c.From == "":
		text += "added, " + c.To
	case c.To == "":
		text += "removed, " + c.From
	default:
		text += c.From + " → " + c.To
	}
	if c.Why != "" {
		text += " (" + c.Why + ")"
	}
	return text
}

// Diff returns what differs between two configurations: the keys in the order
// of the reference file, then the services that are removed, then those that are
// changed or added in the order of the new file, and backends and agents likewise. Services
// and agents are the same if their names are, backends if their service's is, too; their
// order means nothing.
func Diff(old, next *Server) (changes []Change) {
	changes = diffValues("", old.values(), next.values())
	for i, c := range changes {
		changes[i].Why = fixed[c.Key]
		changes[i].Live = changes[i].Why == ""
	}
	changes = append(changes, diffServices(old.Services, next.Services)...)
	changes = append(changes, diffStatics(old.Static, next.Static)...)
	return append(changes, diffAgents(old.Known, next.Known, next.Registry.Auth)...)
}

// diffStatics compares the backends of services that both configurations have: those
// of others come and go with them.
func diffStatics(old, next []StaticBackend) (changes []Change) {
	find := func(list []StaticBackend, b *StaticBackend) *StaticBackend {
		i, ok := slices.BinarySearchFunc(list, b, func(o StaticBackend, b *StaticBackend) int { return core.CompareBackends(&o.Backend, &b.Backend) })
		if !ok {
			return nil
		}
		return &list[i]
	}
	key := func(b *StaticBackend) string {
		return fmt.Sprintf("service %q.backend %q", b.Backend.Services[0], b.Backend.Name)
	}
	for i := range old {
		if b := &old[i]; find(next, b) == nil {
			changes = append(changes, Change{Key: key(b), From: b.Backend.Addr.String(), Live: true, Why: "its flows are placed anew"})
		}
	}
	for i := range next {
		b := &next[i]
		before := find(old, b)
		if before == nil {
			changes = append(changes, Change{Key: key(b), To: b.Backend.Addr.String(), Live: true})
			continue
		}
		for _, c := range diffValues(key(b)+".", staticValues(before), staticValues(b)) {
			c.Live = true
			changes = append(changes, c)
		}
	}
	return changes
}

func diffAgents(old, next []auth.Agent, by Auth) (changes []Change) {
	byName := func(list []auth.Agent, name string) *auth.Agent {
		i := slices.IndexFunc(list, func(a auth.Agent) bool { return a.Name == name })
		if i < 0 {
			return nil
		}
		return &list[i]
	}
	key := func(a *auth.Agent) string { return fmt.Sprintf("agent %q", a.Name) }
	for i := range old {
		if a := &old[i]; byName(next, a.Name) == nil {
			why := ""
			if by != AuthNone {
				why = "its backends are removed"
			}
			changes = append(changes, Change{Key: key(a), From: provenBy(a), Live: true, Why: why})
		}
	}
	for i := range next {
		a := &next[i]
		before := byName(old, a.Name)
		if before == nil {
			changes = append(changes, Change{Key: key(a), To: provenBy(a), Live: true})
			continue
		}
		for _, c := range diffValues(key(a)+".", agentValues(before), agentValues(a)) {
			c.Live = true
			changes = append(changes, c)
		}
	}
	return changes
}

// provenBy returns by what an agent is known.
func provenBy(a *auth.Agent) string {
	if len(a.SANs) > 0 {
		return quoteAll(a.SANs)
	}
	return quoteAll(a.Keys)
}

// fixed is the keys that only a restart changes, and why.
var fixed = map[string]string{
	"state_dir":            "the lock and the saved state are there; restart the balancer",
	"registry.enrolled":    "the agents that have joined are there; restart the balancer",
	"control":              "caplancectl asks there; restart the balancer",
	"control_group":        "the socket was given to its group at the start; restart the balancer",
	"control_read_group":   "the socket was given to its group at the start; restart the balancer",
	"control_clients":      "the socket was opened with it; restart the balancer",
	"sandbox.capabilities": "what was given up cannot be had again; restart the balancer",
	"sandbox.paths":        "what was given up cannot be had again; restart the balancer",
}

// Equal reports whether two configurations say the same.
func Equal(a, b *Server) bool { return len(Diff(a, b)) == 0 }

// EqualService reports whether the file says the same of two services. IDs do
// not count: the file has none.
func EqualService(a, b *core.Service) bool {
	return a.Name == b.Name && slices.Equal(serviceValues(a), serviceValues(b))
}

func diffServices(old, next []*core.Service) (changes []Change) {
	for _, s := range old {
		if named(next, s.Name) == nil {
			why := "its flows drain"
			if s.Removed == core.ResetRemoved {
				why = "its flows are reset"
			}
			changes = append(changes, Change{Key: serviceKey(s), From: summary(s), Live: true, Why: why})
		}
	}
	for _, s := range next {
		before := named(old, s.Name)
		if before == nil {
			changes = append(changes, Change{Key: serviceKey(s), To: summary(s), Live: true})
			continue
		}
		for _, c := range diffValues(serviceKey(s)+".", serviceValues(before), serviceValues(s)) {
			c.Live = true
			changes = append(changes, c)
		}
	}
	return changes
}

func named(list []*core.Service, name string) *core.Service {
	if i := slices.IndexFunc(list, func(s *core.Service) bool { return s.Name == name }); i >= 0 {
		return list[i]
	}
	return nil
}

func serviceKey(s *core.Service) string { return fmt.Sprintf("service %q", s.Name) }

// summary returns where a service is: 192.0.2.1 tcp 80,443.
func summary(s *core.Service) string {
	return fmt.Sprintf("%v %s %s", s.VIP, s.Protocol(), s.PortList())
}

// diffValues compares two lists with the same keys.
func diffValues(prefix string, old, next []value) (changes []Change) {
	for i, v := range old {
		if to := next[i].text; v.text != to {
			changes = append(changes, Change{Key: prefix + v.key, From: v.text, To: to})
		}
	}
	return changes
}
