package auth_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/auth/authtest"
)

const (
	balancerName = "lb.example.org"
	agentName    = "spiffe://example.org/agent/web1"
)

// load reads what was issued, with these authorities of others.
func load(t *testing.T, i *authtest.Issued, usage x509.ExtKeyUsage, others ...*authtest.Authority) *auth.Certificate {
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

func said(t *testing.T, who string, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("%s: %v, want %q", who, err, want)
	}
}

// named knows who has such a name.
func named(t *testing.T, patterns ...string) func(*auth.Identity) error {
	t.Helper()
	var list []auth.Pattern
	for _, p := range patterns {
		list = append(list, pattern(t, p))
	}
	return func(id *auth.Identity) error {
		if !id.In(nil, list) {
			return &auth.UnknownError{Identity: id}
		}
		return nil
	}
}

func pattern(t *testing.T, text string) auth.Pattern {
	t.Helper()
	p, err := auth.ParsePattern(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// meet has an agent and a balancer shake hands over TCP and exchange a byte, and
// returns how each fared, and for whom the balancer takes the agent.
func meet(t *testing.T, agent, balancer auth.Credentials, knowsBalancer, knowsAgent func(*auth.Identity) error) (agentErr error, id *auth.Identity, balancerErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- func() error {
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				return err
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(20 * time.Second))
			secure := auth.Client(c, agent, knowsBalancer)
			if _, err := secure.Prove(ctx); err != nil {
				return err
			}
			if _, err := secure.Write([]byte("a")); err != nil {
				return err
			}
			_, err = io.ReadFull(secure, make([]byte, 1))
			return err
		}()
	}()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	secure := auth.Server(c, balancer, knowsAgent, func() bool { return true })
	if id, balancerErr = secure.Prove(ctx); balancerErr == nil {
		_, balancerErr = io.ReadFull(secure, make([]byte, 1))
		secure.Write([]byte("b"))
	}
	return <-done, id, balancerErr
}

func TestCertificates(t *testing.T) {
	agents, balancers, strangers := authtest.NewAuthority("agents"), authtest.NewAuthority("balancers"), authtest.NewAuthority("agents")
	server, client := authtest.Only(x509.ExtKeyUsageServerAuth), authtest.Only(x509.ExtKeyUsageClientAuth)
	between := agents.Intermediate("rack 7")
	good := balancers.Issue(balancerName, server)
	balancer := func(i *authtest.Issued) auth.Credentials { return load(t, i, x509.ExtKeyUsageServerAuth, agents) }
	agent := func(i *authtest.Issued) auth.Credentials { return load(t, i, x509.ExtKeyUsageClientAuth, balancers) }
	// liar has a certificate that LoadCertificate refuses for an agent.
	liar := func(i *authtest.Issued) auth.Credentials { return load(t, i, x509.ExtKeyUsageServerAuth, balancers) }
	names := func(t *x509.Certificate) { t.URIs, t.DNSNames = nil, nil; t.Subject.CommonName = agentName }
	leaveOut := func(i *authtest.Issued) *authtest.Issued {
		end := []byte("-----END CERTIFICATE-----\n")
		return &authtest.Issued{Chain: i.Chain[:bytes.Index(i.Chain, end)+len(end)], Key: i.Key}
	}
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	rsa2048, _ := rsa.GenerateKey(rand.Reader, 2048)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	for _, tt := range []struct {
		name            string
		agent, balancer auth.Credentials
		agentErr, err   string // what is said at each end; "" for success
	}{
		{"both of their authorities", agent(agents.Issue(agentName, client)), balancer(good), "", ""},
		{"ECDSA P-384", agent(agents.IssueFor(p384, agentName)), balancer(balancers.IssueFor(crypto.Signer(p384), balancerName)), "", ""},
		{"RSA", agent(agents.IssueFor(rsa2048, agentName)), balancer(balancers.IssueFor(rsa2048, balancerName)), "", ""},
		{"Ed25519", agent(agents.IssueFor(ed, agentName)), balancer(balancers.IssueFor(ed, balancerName)), "", ""},
		{"no extended key usage", agent(agents.Issue(agentName, func(t *x509.Certificate) { t.ExtKeyUsage = nil })), balancer(good), "", ""},
		{"an intermediate", agent(between.Issue(agentName)), balancer(good), "", ""},
		{"its intermediate left out", agent(leaveOut(between.Issue(agentName))), balancer(good), "bad certificate", "comes from none of the authorities in ca_file"},
		{"another authority of that name", agent(strangers.Issue(agentName)), balancer(good), "bad certificate", "comes from none of the authorities in ca_file"},
		{"expired", agent(agents.Issue(agentName, authtest.Valid(-2*time.Hour, -time.Hour))), balancer(good), "bad certificate", "has expired or is not yet valid"},
		{"not yet valid", agent(agents.Issue(agentName, authtest.Valid(time.Hour, 2*time.Hour))), balancer(good), "bad certificate", "has expired or is not yet valid"},
		{"a server's certificate", liar(agents.Issue(agentName, server)), balancer(good), "bad certificate", "incompatible key usage"},
		{"another's name", agent(agents.Issue("spiffe://example.org/agent/web2")), balancer(good), "bad certificate", "certificate spiffe://example.org/agent/web2 ("},
		{"the name as a DNS name", agent(agents.Issue("web1", func(t *x509.Certificate) { t.DNSNames = []string{"web1", agentName} })), balancer(good), "bad certificate", "certificate web1 ("},
		{"the name as the subject", agent(agents.Issue("x", func(t *x509.Certificate) { names(t); t.DNSNames = []string{"x.example.org"} })), balancer(good), "bad certificate", "x.example.org"},
		{"an intermediate that may not sign for the name", agent(agents.Intermediate("db", func(t *x509.Certificate) {
			t.PermittedURIDomains, t.PermittedDNSDomainsCritical = []string{"db.example.org"}, true
		}).Issue(agentName)), balancer(good), "bad certificate", "is not good"},
		{"another balancer", agent(agents.Issue(agentName)), balancer(balancers.Issue("lb.example.com")), "certificate lb.example.com (", "remote error"},
		{"an agent poses as the balancer", agent(agents.Issue(agentName)), balancer(agents.Issue(balancerName)), "comes from none of the authorities", "remote error"},
		{"an agent of the same authority does", agent(agents.Issue(agentName)), load(t, balancers.Issue(balancerName, client), x509.ExtKeyUsageClientAuth, agents), "incompatible key usage", "remote error"},
		{"the balancer's has expired", agent(agents.Issue(agentName)), balancer(balancers.Issue(balancerName, authtest.Valid(-2*time.Hour, -time.Hour))), "has expired or is not yet valid", "remote error"},
		{"the agent has a key", auth.NewKeyPair(), balancer(good), "other end's key is not of Ed25519", "remote error"},
		{"the balancer has a key", agent(agents.Issue(agentName)), auth.NewKeyPair(), "other end has a key, and certificates are asked for", "remote error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			agentErr, id, err := meet(t, tt.agent, tt.balancer, named(t, balancerName), named(t, agentName))
			said(t, "agent", agentErr, tt.agentErr)
			said(t, "balancer", err, tt.err)
			if tt.err == "" && (!auth.Same(id, tt.agent.Identity()) || id.Expires().IsZero() || id.Kind() != "certificate") {
				t.Errorf("the agent is %v", id)
			}
			if auth.Refused(agentErr) != (tt.agentErr == "bad certificate") {
				t.Errorf("Refused(%v) is %v", agentErr, auth.Refused(agentErr))
			}
		})
	}
}

// With certificates nobody joins, whatever the registry says.
func TestNobodyJoinsByCertificate(t *testing.T) {
	ca := authtest.NewAuthority("ca")
	here, there := net.Pipe()
	defer here.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	joined := make(chan error, 1)
	go func() {
		_, err := auth.Joiner(there, auth.NewKeyPair(), func(*auth.Identity) error { return nil }).Prove(ctx)
		joined <- err
	}()
	_, err := auth.Server(here, load(t, ca.Issue(balancerName), x509.ExtKeyUsageServerAuth, ca), func(*auth.Identity) error { return nil }, func() bool { return true }).Prove(ctx)
	said(t, "balancer", err, "unsupported application protocols")
	said(t, "agent", <-joined, "no application protocol")
}

// What an identity was proven by may go while its session lives.
func TestCheck(t *testing.T) {
	ca, next := authtest.NewAuthority("ca"), authtest.NewAuthority("next")
	agent := load(t, ca.Issue(agentName), x509.ExtKeyUsageClientAuth, ca)
	server := func(others ...*authtest.Authority) *auth.Certificate {
		return load(t, ca.Issue(balancerName), x509.ExtKeyUsageServerAuth, others...)
	}
	any := func(*auth.Identity) error { return nil }
	_, id, err := meet(t, agent, server(ca), any, any)
	if err != nil {
		t.Fatal(err)
	}
	said(t, "the same authority, read again", server(ca).Check(id), "")
	said(t, "another beside it", server(next, ca).Check(id), "")
	said(t, "it alone", server(next).Check(id), "comes from none of the authorities")
	said(t, "keys", auth.NewKeyPair().Check(id), "keys are asked for from now on")
	said(t, "a key", server(ca).Check(auth.NewKeyPair().Identity()), "certificates are asked for from now on")

	soon := load(t, ca.Issue(agentName, authtest.Valid(-time.Hour, 2*time.Second)), x509.ExtKeyUsageClientAuth, ca) // certificates count in seconds
	balancer := server(ca)
	_, id, err = meet(t, soon, balancer, any, any)
	if err != nil {
		t.Fatal(err)
	}
	<-time.After(time.Until(id.Expires()))
	said(t, "it has expired", balancer.Check(id), "has expired")
	if auth.Same(id, agent.Identity()) || !auth.Same(id, soon.Identity()) || auth.Same(id, nil) || !auth.Same(nil, nil) || auth.Same(id, auth.PublicKey{}.Identity()) {
		t.Error("two certificates of a name are one, or one is two")
	}
}

func TestLoadCertificate(t *testing.T) {
	ca := authtest.NewAuthority("ca")
	good := ca.Issue(agentName)
	other := ca.Issue(agentName)
	client := x509.ExtKeyUsageClientAuth
	for _, tt := range []struct {
		name   string
		issued *authtest.Issued
		change func(t *testing.T, f *auth.Files)
		want   string
	}{
		{"good", good, func(*testing.T, *auth.Files) {}, ""},
		{"no authority's file", good, func(_ *testing.T, f *auth.Files) { f.CA += "x" }, "ca_file: open "},
		{"an empty one", good, func(t *testing.T, f *auth.Files) { write(t, f.CA, nil) }, "ca_file: %ca: no certificate is in it"},
		{"a machine's certificate for an authority", good, func(t *testing.T, f *auth.Files) { write(t, f.CA, good.Chain) }, "ca_file: %ca: certificate of " + agentName + " is no authority's"},
		{"damaged", good, func(t *testing.T, f *auth.Files) {
			write(t, f.CA, []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
		}, "ca_file: %ca: certificate 1: x509: malformed certificate"},
		{"a directory", good, func(t *testing.T, f *auth.Files) { f.CA = t.TempDir() }, "is no regular file"},
		{"no certificate's file", good, func(_ *testing.T, f *auth.Files) { f.Certificate += "x" }, "cert_file: open "},
		{"a key for a certificate", good, func(t *testing.T, f *auth.Files) { write(t, f.Certificate, good.Key) }, "cert_file: %cert: no certificate is in it"},
		{"too long", good, func(t *testing.T, f *auth.Files) { write(t, f.Certificate, bytes.Repeat(good.Chain, 40)) }, "nobody reads more than 12288"},
		{"without a name", ca.Issue(""), func(*testing.T, *auth.Files) {}, `cert_file: %cert: certificate of "O=test" has no DNS name and no URI`},
		{"a wildcard", ca.Issue("*.example.org"), func(*testing.T, *auth.Files) {}, "has no DNS name and no URI"},
		{"an address", ca.Issue("10.0.0.1"), func(*testing.T, *auth.Files) {}, "has no DNS name and no URI"},
		{"a URI without a host", ca.Issue("", func(t *x509.Certificate) { t.URIs = []*url.URL{{Scheme: "urn", Opaque: "x"}} }), func(*testing.T, *auth.Files) {}, "has no DNS name and no URI"},
		{"a server's", ca.Issue(agentName, authtest.Only(x509.ExtKeyUsageServerAuth)), func(*testing.T, *auth.Files) {}, "its extended key usage lacks clientAuth"},
		{"no key's file", good, func(_ *testing.T, f *auth.Files) { f.Key += "x" }, "key_file: open "},
		{"another's key", good, func(t *testing.T, f *auth.Files) { write(t, f.Key, other.Key) }, "key_file: %key: tls: private key does not match public key (it has to be the unencrypted key of the first certificate in %cert)"},
		{"a key that others read", good, func(t *testing.T, f *auth.Files) {
			if err := os.Chmod(f.Key, 0o640); err != nil {
				t.Fatal(err)
			}
		}, "key_file: %key: others can read or write it (mode 0640)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := tt.issued.Write(t.TempDir(), "m", ca)
			if err != nil {
				t.Fatal(err)
			}
			want := strings.NewReplacer("%ca", f.CA, "%cert", f.Certificate, "%key", f.Key).Replace(tt.want)
			tt.change(t, &f)
			_, err = auth.LoadCertificate(f, client)
			said(t, "loaded", err, want)
			var file *auth.FileError
			if err != nil && !errors.As(err, &file) {
				t.Errorf("%v does not say which file", err)
			}
		})
	}
}

// A file may be a link to where it is renewed.
func TestFilesOfLinks(t *testing.T) {
	f, err := authtest.NewAuthority("ca").Issue(agentName).Write(t.TempDir(), "m")
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link.pem")
	if err := os.Symlink(f.Certificate, link); err != nil {
		t.Fatal(err)
	}
	got := auth.Files{CA: f.CA, Certificate: link}.List()
	if want := []string{f.CA, link, f.Certificate}; !slices.Equal(got, want) {
		t.Errorf("files %v, want %v", got, want)
	}
}

func write(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestExpiring(t *testing.T) {
	day := 24 * time.Hour
	ca, old := authtest.NewAuthority("ca", authtest.Valid(-day, 3650*day)), authtest.NewAuthority("old", authtest.Valid(-9*day, -day))
	own := load(t, ca.Issue(agentName, authtest.Valid(-30*day, 60*day)), x509.ExtKeyUsageClientAuth, ca)
	brief := load(t, ca.Issue(agentName, authtest.Valid(-time.Hour, 2*time.Hour)), x509.ExtKeyUsageClientAuth, ca)
	late := load(t, ca.Issue(agentName), x509.ExtKeyUsageClientAuth, old)
	for _, tt := range []struct {
		name          string
		own           auth.Credentials
		in            time.Duration
		warn, failing string
	}{
		{"far", own, 0, "", ""},
		{"13 days before", own, 46*day + time.Hour, "expires in 13 days, on ", ""},
		{"hours before", own, 59*day + 20*time.Hour, "expires in 3 hours", ""},
		{"after", own, 61 * day, "has expired on ", "nobody takes it (renew it, and reload)"},
		{"before", own, -31 * day, "is not valid before ", "nobody takes it"},
		{"a short life", brief, 0, "", ""},
		{"its last third", brief, 70 * time.Minute, "expires in 49 minutes", ""},
		{"the authority has ended", late, 0, `"CN=old,O=test" in `, "nobody is taken (put another authority there, and reload)"},
		{"keys", auth.NewKeyPair(), 0, "", ""},
		{"nothing", nil, 0, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now := time.Now().Add(tt.in)
			got := strings.Join(auth.Expiring(tt.own, now), "\n")
			if (tt.warn == "") != (got == "") || !strings.Contains(got, tt.warn) {
				t.Errorf("warned of %q, want %q", got, tt.warn)
			}
			said(t, "failing", auth.Failing(tt.own, now), tt.failing)
		})
	}
	both := load(t, ca.Issue(agentName), x509.ExtKeyUsageClientAuth, old, ca)
	said(t, "one of two authorities", auth.Failing(both, time.Now()), "")

	var r auth.Reminder
	now := time.Now().Add(50 * day)
	for i, want := range []int{1, 0, 1} {
		if got := r.Due(own, now.Add(time.Duration(i)*12*time.Hour)); len(got) != want {
			t.Errorf("after %d half days: %v", i, got)
		}
	}
	ended := load(t, ca.Issue(agentName, authtest.Valid(-2*day, -day)), x509.ExtKeyUsageClientAuth, ca)
	said(t, "an expired one in the place of a good one", auth.Replaces(own, ended, time.Now()), "has expired")
	said(t, "in the place of itself", auth.Replaces(ended, ended, time.Now()), "")
	said(t, "a good one", auth.Replaces(ended, own, time.Now()), "")
	said(t, "a key", auth.Replaces(own, auth.NewKeyPair(), time.Now()), "")
}

// Each agent that a pattern stands for has its own name, and nobody has another's.
func TestNamesOfCertificates(t *testing.T) {
	ca := authtest.NewAuthority("ca")
	agents := []auth.Agent{
		{Name: "db", SANs: []auth.Pattern{pattern(t, "db.example.org"), pattern(t, "spiffe://example.org/db")}, MaxNames: 2},
		{Name: "web-*", SANs: []auth.Pattern{pattern(t, "*.web.example.org"), pattern(t, "spiffe://example.org/web/*")}, MaxNames: 1},
	}
	both := func(names ...string) func(*x509.Certificate) {
		return func(t *x509.Certificate) {
			for _, n := range names {
				if u, err := url.Parse(n); err == nil && u.Scheme != "" {
					t.URIs = append(t.URIs, u)
				} else {
					t.DNSNames = append(t.DNSNames, n)
				}
			}
		}
	}
	for _, tt := range []struct {
		names []string
		want  string // the agent, or a part of the error
	}{
		{[]string{"db.example.org"}, "db"},
		{[]string{"DB.example.org"}, "db"},
		{[]string{"db.example.org", "spiffe://example.org/db"}, "db"},
		{[]string{"w7.web.example.org"}, "web-w7"},
		{[]string{"W7.Web.Example.Org"}, "web-w7"},
		{[]string{"spiffe://example.org/web/7"}, "web-7"},
		{[]string{"7.web.example.org", "spiffe://example.org/web/7"}, "web-7"},
		{[]string{"8.web.example.org", "spiffe://example.org/web/7"}, "names two agents, web-8 and web-7"},
		{[]string{"db.example.org", "7.web.example.org"}, "names two agents, db and web-7"},
		{[]string{"a.b.web.example.org"}, "is not known here"},
		{[]string{"web.example.org"}, "is not known here"},
		{[]string{"spiffe://example.org/web/7/8"}, "is not known here"},
		{[]string{"spiffe://example.org/web/", "x.y"}, "is not known here"},
		{[]string{"spiffe://example.org/web/7?x=y", "x.y"}, "is not known here"},
		{[]string{"https://example.org/web/7"}, "is not known here"},
		{[]string{"*.web.example.org", "x.y"}, "is not known here"},
	} {
		id := load(t, ca.Issue("", both(tt.names...)), x509.ExtKeyUsageClientAuth, ca).Identity()
		a, err := auth.Find(agents, id)
		if err != nil && !strings.Contains(err.Error(), tt.want) || err == nil && a.Name != tt.want {
			t.Errorf("%v is %v, %v, want %s", tt.names, a, err, tt.want)
		}
	}
	for name, want := range map[string]string{"db": "db", "db-1": "", "web-7": "web-7", "web-": "", "web": ""} {
		if a := auth.Named(agents, name); (a == nil) != (want == "") || a != nil && a.Name != want {
			t.Errorf("%s is %v", name, a)
		}
	}
}

func TestPatterns(t *testing.T) {
	for text, want := range map[string]string{
		"Web1.Example.org": "web1.example.org", "*.web.example.org": "*.web.example.org", "agent.*.example.org": "agent.*.example.org", "host": "host",
		"SPIFFE://Example.org/Agent/*": "spiffe://example.org/Agent/*", "spiffe://example.org": "spiffe://example.org", "https://example.org:8443/a": "https://example.org:8443/a",
	} {
		if p, err := auth.ParsePattern(text); err != nil || p.String() != want {
			t.Errorf("%q became %q, %v", text, p, err)
		}
	}
	for _, bad := range []string{
		"", "*", "example.*", "*.*.example.org", "w*.example.org", "a..b", "a b", "10.0.0.1", "::1", "a.example.org.", "ü.example.org", strings.Repeat("a.", 130) + "b", strings.Repeat("a", 64) + ".b",
		"spiffe://*/a", "spiffe://example.org/a*", "spiffe://example.org/*/*", "spiffe://example.org/a?b", "spiffe://u@example.org/a", "spiffe:///a", "spiffe://example.org/a#b", "://x", "spiffe://exa mple/a",
	} {
		if p, err := auth.ParsePattern(bad); err == nil {
			t.Errorf("%q became %q", bad, p)
		}
	}
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"a.example.org", "a.example.org", true}, {"a.example.org", "*.example.org", true}, {"*.example.org", "*.example.org", true},
		{"a.*.org", "*.b.org", true}, {"a.b.example.org", "*.example.org", false}, {"*.example.org", "*.example.com", false},
		{"spiffe://x/a/*", "spiffe://x/*/b", true}, {"spiffe://x/a/*", "spiffe://x/b/*", false}, {"spiffe://x/a/*", "spiffe://x/a", false},
	} {
		a, b := pattern(t, tt.a), pattern(t, tt.b)
		if a.Overlaps(b) != tt.want || b.Overlaps(a) != tt.want {
			t.Errorf("%s and %s overlap: %v", a, b, !tt.want)
		}
	}
}

func FuzzPattern(f *testing.F) {
	for _, seed := range []string{"*.web.example.org", "spiffe://example.org/agent/*", "a%2fb://x/%2a"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := auth.ParsePattern(text)
		if err != nil {
			return
		}
		if again, err := auth.ParsePattern(p.String()); err != nil || again != p || !p.Overlaps(p) {
			t.Errorf("%q became %q and %q: %v", text, p, again, err)
		}
	})
}
