package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/plain"
	"github.com/caplance/caplance/core/protocol"
)

// agents validates the [[agent]] tables; there are the services that they name, and
// auth says how they prove who they are.
func (v *validator) agents(raw []rawAgent, there []rawService, by Auth) (out []auth.Agent) {
	owners := map[auth.PublicKey]string{}
	for i, r := range raw {
		key := func(name string) string { return fmt.Sprintf("agent[%d].%s", i, name) }
		a := auth.Agent{Name: r.Name, Allow: v.networks(key("allow"), r.Allow), Services: r.Services, MaxWeight: protocol.MaxWeight, MaxNames: 1}
		switch {
		case strings.Count(a.Name, auth.Any) > 1 || !protocol.ValidName(strings.Replace(a.Name, auth.Any, "x", 1)):
			v.failf(key("name"), "%q is not 1 to %d of A-Z a-z 0-9 . _ -, and a * for what that of san stands for", a.Name, protocol.MaxName)
		case slices.ContainsFunc(out, func(o auth.Agent) bool { return o.Name == a.Name }):
			v.failf(key("name"), "there is an agent %q already (give it both keys, or names)", a.Name)
		}
		switch {
		case by == AuthCA && len(r.Keys) > 0:
			v.failf(key("keys"), `it is for auth = "keys", and auth is "ca": give it san, the name in its certificate`)
		case by == AuthKeys && len(r.SAN) > 0:
			v.failf(key("san"), `it is for auth = "ca", and auth is "keys": give it keys (caplance keygen makes one)`)
		case by == AuthCA || len(r.SAN) > 0:
			a.SANs = v.sans(key, r, out)
		default:
			a.Keys = v.agentKeys(key, r, owners)
		}
		for j, s := range r.Services {
			if !slices.ContainsFunc(there, func(r rawService) bool { return r.Name == s }) {
				names := make([]string, len(there))
				for i := range there {
					names[i] = there[i].Name
				}
				v.failf(fmt.Sprintf("%s[%d]", key("services"), j), "there is no service %q%s", s, plain.DidYouMean(s, names))
			}
		}
		if r.MaxWeight != nil {
			a.MaxWeight = uint32(v.integer(key("max_weight"), int(*r.MaxWeight), 0, protocol.MaxWeight))
		}
		if r.MaxNames != nil {
			a.MaxNames = v.integer(key("max_names"), int(*r.MaxNames), 1, 4096)
		}
		if a.MaxNames > 1 && strings.Contains(a.Name, auth.Any) {
			v.failf(key("max_names"), "an agent that a * names has one backend: another one's could be the name of another agent (give it an [[agent]] of its own)")
		}
		out = append(out, a)
	}
	v.agentNames(out)
	return out
}

func (v *validator) agentKeys(key func(string) string, r rawAgent, owners map[auth.PublicKey]string) (out []auth.PublicKey) {
	if n := len(r.Keys); n < 1 || n > 2 {
		v.failf(key("keys"), "%d keys: an agent has one, or two while one takes the other's place", n)
	}
	if strings.Contains(r.Name, auth.Any) {
		v.failf(key("name"), `%q has a *, which is for certificates (auth = "ca"): a key is one agent's`, r.Name)
	}
	for j, text := range r.Keys {
		k, err := auth.ParsePublicKey(text)
		if err != nil {
			v.failf(fmt.Sprintf("%s[%d]", key("keys"), j), "%w", err)
			continue
		}
		if other, ok := owners[k]; ok {
			v.failf(fmt.Sprintf("%s[%d]", key("keys"), j), "key is agent %q's, too: it would be both", other)
		}
		owners[k] = r.Name
		out = append(out, k)
	}
	return out
}

// sans returns the names in an agent's certificates. No name is two agents', and each
// agent that a * stands for has a name of its own.
func (v *validator) sans(key func(string) string, r rawAgent, before []auth.Agent) (out []auth.Pattern) {
	if n := len(r.SAN); n < 1 || n > 2 {
		v.failf(key("san"), "%d names: an agent has one, or two while one takes the other's place", n)
	}
	for j, text := range r.SAN {
		at := fmt.Sprintf("%s[%d]", key("san"), j)
		p, err := auth.ParsePattern(text)
		if err != nil {
			v.failf(at, "%w", err)
			continue
		}
		switch wild := strings.Contains(r.Name, auth.Any); {
		case p.Wild() && !wild:
			v.failf(key("name"), "%q is one agent's name, and san %q means many: a * in name stands for what that of san does (like name = \"*\" or \"web-*\")", r.Name, text)
		case !p.Wild() && wild:
			v.failf(at, "%q has no *, and name %q has one, which stands for what that of san does", text, r.Name)
		}
		for _, other := range before {
			for _, o := range other.SANs {
				if p.Overlaps(o) {
					v.failf(at, "%q is agent %q's %q, too: it would be both", text, other.Name, o)
				}
			}
		}
		out = append(out, p)
	}
	return out
}

// agentNames finds names that two agents may take.
func (v *validator) agentNames(list []auth.Agent) {
	for i := range list {
		for j := range list {
			switch {
			case list[j].MaxNames > 1 && strings.HasPrefix(list[i].Name, list[j].Name+"-"):
				v.failf(fmt.Sprintf("agent[%d].name", i), "agent %q may take this name, too (its max_names is %d: it has all names that begin with %[1]s-)", list[j].Name, list[j].MaxNames)
			case i != j && strings.Contains(list[j].Name, auth.Any) && nameOverlaps(&list[i], list[j].Name):
				v.failf(fmt.Sprintf("agent[%d].name", i), "agent %q may take this name, too: its * stands for anything (let each begin or end with something else, like \"web-*\")", list[j].Name)
			}
		}
	}
}

// nameOverlaps reports whether an agent may have a name that a pattern means.
func nameOverlaps(a *auth.Agent, pattern string) bool {
	before, after, _ := strings.Cut(pattern, auth.Any)
	name := a.Name
	if a.MaxNames > 1 {
		name += "-" + auth.Any
	}
	first, last, many := strings.Cut(name, auth.Any)
	if !many {
		return len(name) > len(before)+len(after) && strings.HasPrefix(name, before) && strings.HasSuffix(name, after)
	}
	return (strings.HasPrefix(first, before) || strings.HasPrefix(before, first)) && (strings.HasSuffix(last, after) || strings.HasSuffix(after, last))
}
