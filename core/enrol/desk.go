package enrol

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/protocol"
)

// Balancer is what a Desk knows of the balancer, as it is now.
type Balancer struct {
	Agents   []auth.Agent // of its configuration
	Services []string
	Listen   netip.AddrPort
	Auth     string           // how agents prove who they are, as its configuration says
	Own      auth.Credentials // what the balancer does so by
}

// pair returns the balancer's key, nil where agents prove none, so that nobody joins.
func (b *Balancer) pair() *auth.KeyPair {
	pair, _ := b.Own.(*auth.KeyPair)
	return pair
}

// Desk is where operators let agents in and out, and agents join. Its methods may be
// called concurrently.
type Desk struct {
	Store    *Store
	Balancer func() Balancer
	Changed  func()                    // who may register is another list
	Sessions func() []api.AgentSession // that there are; nil: not shown
	Log      *slog.Logger
}

// maxTTL is how long a token may be out: who finds it later shall not get in.
const maxTTL = 7 * 24 * time.Hour

// Agents returns all that may register: the configuration's, and those that have
// joined. The configuration wins where both name an agent or a key. Who has joined has
// a key, and is nobody where certificates are asked for.
func (d *Desk) Agents(b Balancer) []auth.Agent {
	all := slices.Clone(b.Agents)
	if b.certificates() {
		return all
	}
	for _, a := range d.Store.Agents() {
		if clash(all, &a) == nil {
			all = append(all, a)
		}
	}
	return all
}

// certificates reports whether the balancer asks for them.
func (b *Balancer) certificates() bool { return b.Own != nil && b.pair() == nil }

// Hidden returns which agents have joined and do not count, as the configuration
// names them or their keys otherwise, or asks for certificates.
func (d *Desk) Hidden() (out []string) {
	b := d.Balancer()
	if n := len(d.Store.Agents()); n > 0 && b.certificates() {
		return []string{fmt.Sprintf("%d agents have joined by tokens, and cannot register: they have keys, and registry.auth is %q", n, b.Auth)}
	}
	for _, a := range d.Store.Agents() {
		if err := clash(b.Agents, &a); err != nil {
			out = append(out, fmt.Sprintf("agent %s has joined, and cannot register any more: %v (caplancectl agent remove %[1]s forgets it)", a.Name, err))
		}
	}
	return out
}

// clash returns why an agent cannot be beside others.
func clash(others []auth.Agent, a *auth.Agent) error {
	for i := range others {
		switch o := &others[i]; {
		case o.Name == a.Name:
			return fmt.Errorf("agent %s is in the balancer's configuration ([[agent]]): its keys belong there", a.Name)
		case o.MaxNames > 1 && strings.HasPrefix(a.Name, o.Name+"-"):
			return fmt.Errorf("agent %s may take the name %s, too: it has all names that begin with %[1]s-", o.Name, a.Name)
		case a.MaxNames > 1 && strings.HasPrefix(o.Name, a.Name+"-"):
			return fmt.Errorf("agent %s would have all names that begin with %[1]s-, and there is agent %s", a.Name, o.Name)
		}
		for _, k := range a.Keys {
			if slices.Contains(others[i].Keys, k) {
				return fmt.Errorf("key is agent %s's already: each machine has its own (caplance keygen)", others[i].Name)
			}
		}
	}
	return nil
}

// Create lets a token out.
func (d *Desk) Create(o api.TokenOrder) (answer api.TokenAnswer, err error) {
	b := d.Balancer()
	a, err := agentOf(&o, &b)
	if err != nil {
		return answer, err
	}
	server, err := address(o.Address, b.Listen)
	if err != nil {
		return answer, err
	}
	var others []auth.Agent // one that has joined under this name gets a new key
	for _, other := range d.Agents(b) {
		if other.Name != a.Name || clash(b.Agents, &a) != nil {
			others = append(others, other)
		}
	}
	for _, t := range d.Store.Tokens(time.Now()) { // who has them joins, too
		if t.Agent.Name != a.Name {
			others = append(others, t.Agent)
		}
	}
	if err := clash(others, &a); err != nil {
		return answer, err
	}
	ttl, now := time.Duration(o.TTL*float64(time.Second)), time.Now()
	if ttl < time.Second || ttl > maxTTL {
		return answer, fmt.Errorf("ttl %s is not between 1s and %s", ttl, maxTTL)
	}
	token := auth.NewToken(server, b.pair().Public())
	expires := now.Add(ttl).Truncate(time.Second)
	if err := d.Store.Create(Token{a, auth.HashSecret(token.Secret[:]), expires}, now); err != nil {
		return answer, err
	}
	d.Log.Info("token is out: an agent may join", "agent", a.Name, "expires", expires)
	return api.TokenAnswer{Token: token.String(), Name: a.Name, Server: server, Expires: expires}, nil
}

func agentOf(o *api.TokenOrder, b *Balancer) (a auth.Agent, err error) {
	a = auth.Agent{Name: o.Name, Allow: o.Allow, Services: o.Services, MaxWeight: protocol.MaxWeight, MaxNames: max(o.MaxNames, 1)}
	if o.MaxWeight != nil {
		a.MaxWeight = min(*o.MaxWeight, protocol.MaxWeight)
	}
	switch {
	case b.certificates():
		return a, fmt.Errorf("agents do not join here: their authority's certificates let them in ([registry] auth is %q; [[agent]] lists their names)", b.Auth)
	case b.pair() == nil:
		return a, fmt.Errorf("agents prove no keys here, so that nobody has to join ([registry] auth is %q)", b.Auth)
	case !protocol.ValidName(o.Name):
		return a, fmt.Errorf("name %q is not 1 to %d of A-Z a-z 0-9 . _ -", o.Name, protocol.MaxName)
	}
	for _, s := range o.Services {
		if !slices.Contains(b.Services, s) {
			return a, fmt.Errorf("there is no service %q (there are: %s)", s, strings.Join(b.Services, ", "))
		}
	}
	return a, nil
}

// address returns where agents reach the registry.
func address(given string, listen netip.AddrPort) (string, error) {
	port := strconv.Itoa(int(listen.Port()))
	switch {
	case given != "":
		if host, port, err := net.SplitHostPort(given); err == nil && host != "" && port != "" {
			return given, nil
		}
		host := strings.Trim(given, "[]")
		if host == "" || strings.ContainsAny(host, " /,") || strings.Contains(host, ":") && !isAddr(host) {
			return "", fmt.Errorf("address %q is not host or host:port", given)
		}
		return net.JoinHostPort(host, port), nil
	case listen.Addr().IsUnspecified():
		return "", fmt.Errorf("registry.listen is %v: say at which address agents reach this balancer (-address 10.0.0.1)", listen)
	}
	return listen.String(), nil
}

func isAddr(s string) bool { _, err := netip.ParseAddr(s); return err == nil }

// Joinable reports whether a token is out that is good for something.
func (d *Desk) Joinable() bool {
	b := d.Balancer()
	return b.pair() != nil && d.Store.Waiting(time.Now())
}

// Join enrols a key by a token's secret, and returns as whom.
func (d *Desk) Join(secret []byte, key auth.PublicKey) (name string, err error) {
	b := d.Balancer()
	pair := b.pair()
	if pair == nil {
		return "", fmt.Errorf("agents prove no keys here ([registry] auth is %q)", b.Auth)
	}
	if auth.FindKey(b.Agents, key) != nil || key == pair.Public() {
		return "", errors.New("key is in the balancer's configuration already: each machine has its own (caplance keygen)")
	}
	a, err := d.Store.Redeem(secret, key, time.Now())
	if err != nil {
		return "", err
	}
	d.Changed()
	return a.Name, nil
}

// Rows returns who may register, and for whom tokens are out.
func (d *Desk) Rows() []api.AgentRow {
	b := d.Balancer()
	var rows []api.AgentRow
	for i, a := range d.Agents(b) {
		from := "configuration"
		if i >= len(b.Agents) {
			from = "joined"
		}
		rows = append(rows, rowOf(&a, from))
	}
	d.addSessions(rows)
	for _, t := range d.Store.Tokens(time.Now()) {
		row := rowOf(&t.Agent, "token")
		row.Expires = &t.Expires
		rows = append(rows, row)
	}
	slices.SortStableFunc(rows, func(a, b api.AgentRow) int { return strings.Compare(a.Name, b.Name) })
	return rows
}

// addSessions adds to each agent those that there are of it.
func (d *Desk) addSessions(rows []api.AgentRow) {
	if d.Sessions == nil {
		return
	}
	for _, s := range d.Sessions() {
		for i := range rows {
			if auth.Named([]auth.Agent{{Name: rows[i].Name}}, s.Agent) != nil {
				rows[i].Sessions = append(rows[i].Sessions, s)
			}
		}
	}
}

func rowOf(a *auth.Agent, from string) api.AgentRow {
	row := api.AgentRow{Name: a.Name, From: from, Allow: a.Allow, Services: a.Services, MaxWeight: a.MaxWeight, MaxNames: a.MaxNames}
	for _, k := range a.Keys {
		row.Keys = append(row.Keys, k.String())
	}
	for _, p := range a.SANs {
		row.SAN = append(row.SAN, p.String())
	}
	return row
}

// Remove forgets an agent that has joined, and the token that is out for it: its
// sessions end, and its backends go.
func (d *Desk) Remove(name string) error {
	ok, err := d.Store.Remove(name)
	switch {
	case err != nil:
		return err
	case !ok && slices.ContainsFunc(d.Balancer().Agents, func(a auth.Agent) bool { return a.Name == name }):
		return fmt.Errorf("agent %s is in the configuration: take its [[agent]] out there, and reload", name)
	case !ok:
		return fmt.Errorf("no agent %q has joined, and no token is out for it (caplancectl agents lists them)", name)
	}
	d.Changed()
	d.Log.Info("agent removed", "agent", name)
	return nil
}
