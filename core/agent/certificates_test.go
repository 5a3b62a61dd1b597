package agent

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/auth/authtest"
	"github.com/caplance/caplance/core/nettest/slow"
)

func pattern(t *testing.T, text string) auth.Pattern {
	t.Helper()
	p, err := auth.ParsePattern(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func certificate(t *testing.T, i *authtest.Issued, usage x509.ExtKeyUsage, others ...*authtest.Authority) *auth.Certificate {
	t.Helper()
	f, err := i.Write(t.TempDir(), "m", others...)
	if err != nil {
		t.Fatal(err)
	}
	c, err := auth.LoadCertificate(f, usage)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// certify makes the balancer ask for certificates of an authority, and returns the
// configuration of an agent that has one.
func (b *balancer) certify(ca *authtest.Authority) (Config, *logged) {
	b.t.Helper()
	b.stop()
	log := &logged{}
	b.log = slog.NewTextHandler(log, nil)
	b.settings.Own = certificate(b.t, ca.Issue("lb.example.org"), x509.ExtKeyUsageServerAuth, ca)
	b.settings.Known = []auth.Agent{{Name: "*", SANs: []auth.Pattern{pattern(b.t, "spiffe://example.org/agent/*")}, MaxWeight: 10, MaxNames: 1}}
	b.start()
	cfg := b.config()
	cfg.Own = certificate(b.t, ca.Issue("spiffe://example.org/agent/b1"), x509.ExtKeyUsageClientAuth, ca)
	cfg.BalancerNames = []auth.Pattern{pattern(b.t, "lb.example.org")}
	return cfg, log
}

// A new certificate breaks no session: the next one is by it.
func TestCertificateChanges(t *testing.T) {
	b, ca := newBalancer(t, freePort(t)), authtest.NewAuthority("ca")
	cfg, _ := b.certify(ca)
	a := start(t, cfg)
	b.until("b1 active")
	a.eventually("Active", func() string { return a.State().String() })
	if s := a.status(); s.Proven != cfg.Own.Identity().String() || len(s.Certificates) != 2 || !s.Healthy {
		t.Errorf("status %+v", s)
	}

	ended := *a.config()
	ended.Own = certificate(t, ca.Issue("spiffe://example.org/agent/b1", authtest.Valid(-2*time.Hour, -time.Hour)), x509.ExtKeyUsageClientAuth, ca)
	if err := a.Reload(ended); err == nil || !strings.Contains(err.Error(), "cert_file: certificate of spiffe://example.org/agent/b1") || !strings.Contains(err.Error(), "nothing was reloaded") {
		t.Errorf("an expired certificate in the place of a good one: %v", err)
	}

	next := authtest.NewAuthority("next")
	set := b.settings
	set.Own = certificate(t, next.Issue("lb.example.org"), x509.ExtKeyUsageServerAuth, ca, next)
	b.registry.Update(set)
	second := *a.config()
	second.Own = certificate(t, next.Issue("spiffe://example.org/agent/b1"), x509.ExtKeyUsageClientAuth, ca, next)
	if err := a.Reload(second); err != nil {
		t.Fatal(err)
	}
	if s := a.status(); s.Proven != cfg.Own.Identity().String() {
		t.Errorf("the session is by %s already", s.Proven)
	}
	set.Own = certificate(t, next.Issue("lb.example.org"), x509.ExtKeyUsageServerAuth, next)
	b.registry.Update(set)
	b.until("b1 lost") // the session by the first authority ended
	b.until("b1 active")
	a.eventually(second.Own.Identity().String(), func() string { return a.status().Proven })
}

// A session whose certificate ends gives way to one by the next, before the balancer
// ends it.
func TestCertificateEnds(t *testing.T) {
	b, ca := newBalancer(t, freePort(t)), authtest.NewAuthority("ca")
	cfg, balancer := b.certify(ca)
	next := cfg.Own
	ends := slow.Time(3 * time.Second)
	cfg.Own = certificate(t, ca.Issue("spiffe://example.org/agent/b1", authtest.Valid(-time.Hour, ends)), x509.ExtKeyUsageClientAuth, ca)
	log := &logged{}
	a := startLogged(t, cfg, slog.NewTextHandler(log, nil))
	b.until("b1 active")
	second := *a.config()
	second.Own = next
	if err := a.Reload(second); err != nil {
		t.Fatal(err)
	}
	a.eventually(next.Identity().String(), func() string { return a.status().Proven })
	a.eventually("yes", log.has("its certificate ends soon"))
	if balancer.has("its certificate has expired")() == "yes" {
		t.Error("the balancer had to end the session")
	}
	a.eventually("Active", func() string { return a.State().String() })
}

// Each end says why it refuses the other.
func TestCertificatesOfStrangers(t *testing.T) {
	ca, other := authtest.NewAuthority("ca"), authtest.NewAuthority("ca")
	const name = "spiffe://example.org/agent/b1"
	own := func(t *testing.T, c *Config, i *authtest.Issued) {
		c.Own = certificate(t, i, x509.ExtKeyUsageClientAuth, ca)
	}
	for _, tt := range []struct {
		name            string
		change          func(*testing.T, *Config)
		agent, balancer string
	}{
		{"another authority", func(t *testing.T, c *Config) { own(t, c, other.Issue(name)) }, "it does not know this agent's certificate, of " + name + " until ", "certificate of " + name + " comes from none of the authorities in ca_file"},
		{"another name", func(t *testing.T, c *Config) { own(t, c, ca.Issue("web1.example.org")) }, `its file needs [[agent]] name = \"b1\", san = [\"web1.example.org\"]`, "no [[agent]] of the balancer lists its certificate"},
		{"another agent's name", func(t *testing.T, c *Config) { c.Name = "b2" }, "it is agent b1, which may not register as b2", ""},
		{"another balancer", func(t *testing.T, c *Config) {
			c.BalancerNames = []auth.Pattern{pattern(t, "lb2.example.org")}
		}, "its certificate lb.example.org (", "it does not know this balancer"},
		{"a key", func(_ *testing.T, c *Config) { c.Own, c.BalancerNames = auth.NewKeyPair(), nil }, "other end's key is not of Ed25519", "it does not know this balancer"},
		{"nothing", func(_ *testing.T, c *Config) { c.Own, c.BalancerNames = nil, nil }, "does it want a key or a certificate?", "it has no key and no certificate configured"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBalancer(t, freePort(t))
			cfg, balancer := b.certify(ca)
			tt.change(t, &cfg)
			agent := &logged{}
			a := startLogged(t, cfg, slog.NewTextHandler(agent, nil))
			a.eventually("yes", agent.has(tt.agent))
			a.eventually("yes", balancer.has(tt.balancer))
			if list := b.registry.Backends(); len(list) > 0 {
				t.Errorf("%v is registered", list)
			}
		})
	}
}

// The files are read with the configuration; what is wrong in them names the key that
// names the file.
func TestLoadCertificate(t *testing.T) {
	ca := authtest.NewAuthority("ca")
	dir := t.TempDir()
	f, err := ca.Issue("b1.example.org").Write(dir, "b1", ca)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "a.toml")
	load := func(names string) (Config, error) {
		text := fmt.Sprintf("server = 'lb'\nname = 'b1'\nca_file = '%s'\ncert_file = '%s'\nkey_file = '%s'\nbalancer_names = [%s]\n", f.CA, f.Certificate, f.Key, names)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return Load(file)
	}
	c, err := load("'lb.example.org', 'spiffe://example.org/lb/*'")
	if err != nil || c.Own.Identity().Kind() != "certificate" || len(c.BalancerNames) != 2 {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := load("'*.example.org'"); err == nil || !strings.Contains(err.Error(), "a.toml:6: balancer_names: certificate in cert_file has such a name itself") {
		t.Errorf("an agent that could be its balancer: %v", err)
	}
	if err := errors.Join(os.Chmod(f.Key, 0o644)); err != nil {
		t.Fatal(err)
	}
	if _, err := load("'lb.example.org'"); err == nil || !strings.Contains(err.Error(), "a.toml:5: key_file: "+f.Key+": others can read") {
		t.Errorf("a key that others read: %v", err)
	}
}
