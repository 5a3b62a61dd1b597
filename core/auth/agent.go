package auth

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Agent is one that may register at a balancer, and as what; or many, if a * is in its
// Name and its SANs: each is named by the part of its certificate's name that the *
// stands for.
type Agent struct {
	Name      string         // of its backend; if it has several, the others begin with this and a dash
	Keys      []PublicKey    // one, or two while one takes the other's place
	SANs      []Pattern      // of certificates, likewise
	Allow     []netip.Prefix // data IPs that it may have; none: the address that it comes from
	Services  []string       // that it may join; none: every one
	MaxWeight uint32
	MaxNames  int // backends at once
}

// FindKey returns the agent with a key, nil if there is none.
func FindKey(agents []Agent, key PublicKey) *Agent {
	i := slices.IndexFunc(agents, func(a Agent) bool { return slices.Contains(a.Keys, key) })
	if i < 0 {
		return nil
	}
	return &agents[i]
}

// Find returns which agent an identity is, under its own name. Nobody is an
// *UnknownError; a certificate that names several agents is an error, too.
func Find(agents []Agent, id *Identity) (found *Agent, err error) {
	for i := range agents {
		for _, name := range agents[i].namesOf(id) {
			if found != nil && found.Name != name {
				return nil, fmt.Errorf("certificate %s names two agents, %s and %s: it has to be one's", id, found.Name, name)
			}
			found = agents[i].as(name)
		}
	}
	if found == nil {
		return nil, &UnknownError{id}
	}
	return found, nil
}

// namesOf returns the names that an identity has as this agent.
func (a *Agent) namesOf(id *Identity) (out []string) {
	if id.chain == nil {
		if slices.Contains(a.Keys, id.Key) {
			out = append(out, a.Name)
		}
		return out
	}
	for _, p := range a.SANs {
		for _, name := range id.names {
			if part, ok := p.match(name); ok {
				out = append(out, strings.Replace(a.Name, Any, part, 1))
			}
		}
	}
	return out
}

// as returns the agent under one of the names that it stands for.
func (a *Agent) as(name string) *Agent {
	out := *a
	out.Name = name
	return &out
}

// Named returns the agent of a name, nil if there is none.
func Named(agents []Agent, name string) *Agent {
	for i := range agents {
		a := &agents[i]
		before, after, many := strings.Cut(a.Name, Any)
		if a.Name == name || many && len(name) > len(before)+len(after) && strings.HasPrefix(name, before) && strings.HasSuffix(name, after) {
			return a.as(name)
		}
	}
	return nil
}

// Permits returns why the agent may not have a backend like this, nil if it may.
// peer is the address that it comes from.
func (a *Agent) Permits(name string, data, peer netip.Addr, services []string, weight uint32) error {
	if name != a.Name && (a.MaxNames < 2 || !strings.HasPrefix(name, a.Name+"-")) {
		if a.MaxNames < 2 {
			return fmt.Errorf("it is agent %s, which may not register as %s", a.Name, name)
		}
		return fmt.Errorf("it is agent %s, which may register as %[1]s and as %[1]s-…, not as %s", a.Name, name)
	}
	if len(a.Allow) == 0 && data != peer {
		return fmt.Errorf("data IP %v is not the address that agent %s comes from, %v (allow lists others at the balancer)", data, a.Name, peer)
	}
	if len(a.Allow) > 0 && !slices.ContainsFunc(a.Allow, func(p netip.Prefix) bool { return p.Contains(data) }) {
		return fmt.Errorf("data IP %v is in none of the networks that the balancer allows agent %s: %v", data, a.Name, a.Allow)
	}
	if len(a.Services) > 0 && services == nil {
		return fmt.Errorf("agent %s may not join every service (the balancer allows %s)", a.Name, strings.Join(a.Services, ", "))
	}
	for _, s := range services {
		if len(a.Services) > 0 && !slices.Contains(a.Services, s) {
			return fmt.Errorf("agent %s may not join service %s (the balancer allows %s)", a.Name, s, strings.Join(a.Services, ", "))
		}
	}
	if weight > a.MaxWeight {
		return fmt.Errorf("weight %d is more than the balancer allows agent %s: %d", weight, a.Name, a.MaxWeight)
	}
	return nil
}
