package agent

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/caplance/caplance/core/auth"
)

// logged keeps what was logged.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

// has reports "yes" once a text was logged.
func (l *logged) has(text string) func() string {
	return func() string {
		l.mu.Lock()
		defer l.mu.Unlock()
		if strings.Contains(l.buf.String(), text) {
			return "yes"
		}
		return "no: " + l.buf.String()
	}
}

// secure makes the balancer ask for keys, and returns the configuration of an agent
// that it lists.
func (b *balancer) secure() (Config, *logged) {
	b.stop()
	log := &logged{}
	b.log = slog.NewTextHandler(log, nil)
	own, agent := auth.NewKeyPair(), auth.NewKeyPair()
	b.settings.Own = own
	b.settings.Known = []auth.Agent{{Name: "b1", Keys: []auth.PublicKey{agent.Public()}, MaxWeight: 10, MaxNames: 1}}
	b.start()
	cfg := b.config()
	cfg.Own, cfg.BalancerKeys = agent, []auth.PublicKey{own.Public()}
	return cfg, log
}

func TestKeys(t *testing.T) {
	b := newBalancer(t, freePort(t))
	cfg, _ := b.secure()
	a := start(t, cfg)
	b.until("b1 active")
	a.eventually("Active", func() string { return a.State().String() })

	// Another key beside it, so that the agent can change to it; then it alone.
	next := auth.NewKeyPair()
	set := b.settings
	set.Known = []auth.Agent{set.Known[0]}
	set.Known[0].Keys = []auth.PublicKey{cfg.Own.Identity().Key, next.Public()}
	b.registry.Update(set)
	second := *a.config()
	second.Own = next
	if err := a.Reload(second); err != nil {
		t.Fatal(err)
	}
	set.Known = []auth.Agent{set.Known[0]}
	set.Known[0].Keys = []auth.PublicKey{next.Public()}
	b.registry.Update(set)
	b.until("b1 lost") // the session by the first key ended
	b.until("b1 active")

	// It is no longer listed.
	set.Known = nil
	b.registry.Update(set)
	b.until("")
	a.eventually("Registering", func() string { return a.State().String() })
}

// Each end says why it refuses the other.
func TestStrangers(t *testing.T) {
	for _, tt := range []struct {
		name            string
		change          func(*Config)
		agent, balancer string
	}{
		{"another key", func(c *Config) { c.Own = auth.NewKeyPair() }, "it does not know this agent's key (add to its file: [[agent]] name = \\\"b1\\\", keys", "no [[agent]] of the balancer lists its key"},
		{"no key", func(c *Config) { c.Own, c.BalancerKeys = nil, nil }, "does it want a key or a certificate?", "other end speaks without TLS"},
		{"another balancer", func(c *Config) { c.BalancerKeys = []auth.PublicKey{auth.NewKeyPair().Public()} }, "is not in balancer_keys", "it does not know this balancer, whose key"},
		{"another's name", func(c *Config) { c.Name = "b2" }, "it is agent b1, which may not register as b2", ""},
		{"another's address", func(c *Config) { c.DataIP = netip.MustParseAddr("127.0.0.2") }, "data IP 127.0.0.2 is not the address that agent b1 comes from", ""},
		{"too much", func(c *Config) { c.Weight = 11 }, "weight 11 is more than the balancer allows agent b1", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBalancer(t, freePort(t))
			cfg, balancer := b.secure()
			tt.change(&cfg)
			agent := &logged{}
			a := startLogged(t, cfg, slog.NewTextHandler(agent, nil))
			a.eventually("yes", agent.has(tt.agent))
			a.eventually("yes", balancer.has(tt.balancer))
			if list := b.registry.Backends(); len(list) > 0 {
				t.Errorf("%v is registered", list)
			}
		})
	}
	t.Run("a balancer without keys", func(t *testing.T) {
		b := newBalancer(t, freePort(t))
		cfg := b.config()
		cfg.Own, cfg.BalancerKeys = auth.NewKeyPair(), []auth.PublicKey{auth.NewKeyPair().Public()}
		agent := &logged{}
		a := startLogged(t, cfg, slog.NewTextHandler(agent, nil))
		a.eventually("yes", agent.has("speaks without TLS"))
	})
}
