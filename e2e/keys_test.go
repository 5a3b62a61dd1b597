package e2e

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/auth/authtest"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/e2e/cluster"
)

// reconfigure has the balancer and the agents take the cluster's options.
func reconfigure(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	must(t, c.Rewrite())
	_, err := c.Control().Reload(t.Context(), false)
	must(t, err)
	for _, b := range c.Backends {
		_, err := b.WriteConfig()
		must(t, err)
		b.Agent.Signal(unix.SIGHUP)
	}
}

// sessions returns how many sessions of backends have begun.
func sessions(t *testing.T, c *cluster.Cluster) int {
	t.Helper()
	return strings.Count(c.Server.Output(), "backend registered")
}

// Keys are asked for, changed and taken away while connections are open; only the
// last ends any.
func TestKeysChange(t *testing.T) {
	c := start(t, cluster.Options{Backends: 2, Keyless: true, Timeout: "5s"})
	h := hold(t, c, 40)
	if report, err := c.Control().Status(t.Context()); err != nil || !slices.ContainsFunc(report.Warnings, func(w string) bool { return strings.Contains(w, `registry.auth is "none"`) }) {
		t.Errorf("status does not warn that anybody may register: %+v, %v", report, err)
	}
	again := func(what string) {
		t.Helper()
		before := sessions(t, c)
		reconfigure(t, c)
		await(t, what+": both agents to come back", func() error {
			if n := sessions(t, c) - before; n < len(c.Backends) {
				return fmt.Errorf("%d did", n)
			}
			return nil
		})
		must(t, c.AwaitActive(t.Context(), len(c.Backends)))
		h.check(t, what)
		newWorks(t, c, what, vips...)
	}
	c.Keyless = false
	again("keys are asked for")

	for _, b := range c.Backends {
		must(t, b.NewKey())
	}
	reconfigure(t, c)
	h.check(t, "new keys beside the old ones")
	for _, b := range c.Backends {
		b.Keys = b.Keys[1:]
	}
	again("the old keys are gone")

	b := c.Backends[0]
	b.Keys = nil
	c.Backends = c.Backends[1:]
	must(t, c.Rewrite())
	c.Backends = append([]*cluster.Backend{b}, c.Backends...)
	_, err := c.Control().Reload(t.Context(), false)
	must(t, err)
	awaitState(t, c, b.Name, "gone")
	await(t, "the agent to be told why", func() error {
		if !strings.Contains(b.Agent.Output(), "it does not know this agent's key") {
			return errors.New(b.Agent.Output())
		}
		return nil
	})
}

// Certificates of an authority take the place of keys: nobody else's, not even a name
// that the authority has not signed, gets in; certificate and authority change by
// reloads, which break no session until the old authority is gone.
func TestCertificates(t *testing.T) {
	c := start(t, cluster.Options{Backends: 2, Timeout: "5s"})
	h := hold(t, c, 20)
	before := sessions(t, c)
	back := func(what string) {
		t.Helper()
		await(t, what+": both agents to come back", func() error {
			if n := sessions(t, c) - before; n < len(c.Backends) {
				return fmt.Errorf("%d did", n)
			}
			return nil
		})
		must(t, c.AwaitActive(t.Context(), len(c.Backends)))
		h.check(t, what)
		newWorks(t, c, what, vips...)
	}
	c.CA, c.Authorities = true, []*authtest.Authority{authtest.NewAuthority("first")}
	must(t, c.Certify())
	reconfigure(t, c)
	back("certificates in the place of keys")

	foreign := authtest.NewAuthority("first") // its name is worth nothing
	files, err := foreign.Issue("b9"+cluster.AgentDomain).Write(t.TempDir(), "b9", c.Authorities...)
	must(t, err)
	stranger, err := auth.LoadCertificate(files, x509.ExtKeyUsageClientAuth)
	must(t, err)
	knock := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), slow.Time(10*time.Second))
		defer cancel()
		conn, err := c.Client.Dial(ctx, "tcp", "10.77.0.1:1338")
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(slow.Time(10 * time.Second)))
		secure := auth.Client(conn, stranger, func(*auth.Identity) error { return nil })
		if _, err := secure.Prove(ctx); err != nil {
			return err
		}
		fmt.Fprint(secure, "REGISTER b9 10.77.0.100\n")
		if n, err := secure.Read(make([]byte, 1000)); !auth.Refused(err) {
			return cluster.Final(fmt.Errorf("a certificate of another authority is answered by %d bytes, %w", n, err))
		}
		return nil
	}
	await(t, "the stranger to be refused and logged", func() error {
		if err := knock(); err != nil { // again and again: the log takes few lines a second
			return err
		}
		if out := c.Server.Output(); !strings.Contains(out, "certificate of b9"+cluster.AgentDomain+" comes from none of the authorities") {
			return errors.New(out)
		}
		return nil
	})

	// The files are damaged: nothing changes, and it is said which.
	before = sessions(t, c)
	lb := filepath.Join(c.Dir, "lb.pem")
	good, err := os.ReadFile(lb)
	must(t, err)
	must(t, os.WriteFile(lb, []byte("-----BEGIN\n"), 0o644))
	if _, err := c.Control().Reload(t.Context(), false); err == nil || !strings.Contains(err.Error(), "registry.cert_file: "+lb+": no certificate is in it") {
		t.Errorf("reload with a damaged certificate: %v", err)
	}
	must(t, os.WriteFile(lb, good, 0o644))

	// Another authority beside the old one, and certificates by it.
	proven := func() (out []string) {
		rows, err := c.Control().Agents(t.Context())
		must(t, err)
		for _, r := range rows {
			for _, s := range r.Sessions {
				out = append(out, s.Backend+" "+s.Proven)
			}
		}
		return out
	}
	old := proven()
	c.Authorities = append(c.Authorities, authtest.NewAuthority("second"))
	must(t, c.Certify())
	reconfigure(t, c)
	for _, b := range c.Backends {
		await(t, b.Name+"'s reload", func() error {
			if out := b.Agent.Output(); strings.Count(out, "msg=reloaded") < 2 {
				return errors.New(out)
			}
			return nil
		})
	}
	h.check(t, "new certificates")
	if n := sessions(t, c) - before; n > 0 || len(old) != 2 || !slices.Equal(proven(), old) {
		t.Errorf("%d sessions began anew by a reload; they were by %v, and are by %v", n, old, proven())
	}

	c.Authorities = c.Authorities[1:]
	_, err = c.Authorities[0].Issue(cluster.BalancerName).Write(c.Dir, "lb", c.Authorities...)
	must(t, err)
	_, err = c.Control().Reload(t.Context(), false)
	must(t, err)
	back("the old authority is gone")
	for _, p := range proven() {
		if slices.Contains(old, p) {
			t.Errorf("session goes on by %s", p)
		}
	}

	// A start with an expired certificate goes on, and says what is wrong.
	_, err = c.Authorities[0].Issue(cluster.BalancerName, authtest.Valid(-2*time.Hour, -time.Hour)).Write(c.Dir, "lb", c.Authorities...)
	must(t, err)
	if _, err := c.Control().Reload(t.Context(), false); err == nil || !strings.Contains(err.Error(), "has expired on") {
		t.Errorf("reload to an expired certificate: %v", err)
	}
	must(t, c.StopServer())
	must(t, c.StartServer(t.Context()))
	if out, code := ctl(t, "status", "-server", c.ServerSocket()); code != 1 || !strings.Contains(out, "NOT WELL: certificate of "+cluster.BalancerName+" in "+lb+" has expired on") {
		t.Errorf("status with an expired certificate: exit code %d: %s", code, out)
	}
	b := c.Backends[0]
	await(t, "the agent to say why", func() error {
		if out := b.Agent.Output(); !strings.Contains(out, "certificate of "+cluster.BalancerName+" is not good: x509: certificate has expired") {
			return errors.New(out)
		}
		return nil
	})
}

// Who has no key, or one that nobody lists, gets nowhere, and the balancer's log says
// whom to list.
func TestStrangers(t *testing.T) {
	c := start(t, cluster.Options{Backends: 1})
	dial := func() net.Conn {
		t.Helper()
		conn, err := c.Client.Dial(t.Context(), "tcp", "10.77.0.1:1338")
		must(t, err)
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(slow.Time(10 * time.Second)))
		return conn
	}
	plain := dial()
	fmt.Fprint(plain, "REGISTER b9 10.77.0.100\n")
	answer := make([]byte, 1000)
	if n, _ := plain.Read(answer); strings.Contains(string(answer[:n]), "INVALID") {
		t.Errorf("a peer without a key is answered %q", answer[:n])
	}
	stranger := auth.NewKeyPair()
	ctx, cancel := context.WithTimeout(t.Context(), slow.Time(10*time.Second))
	defer cancel()
	secure := auth.Client(dial(), stranger, func(*auth.Identity) error { return nil })
	_, err := secure.Prove(ctx)
	must(t, err)
	fmt.Fprint(secure, "REGISTER b9 10.77.0.100\n")
	if n, err := secure.Read(answer); !auth.Refused(err) {
		t.Errorf("a key that nobody lists is answered %q, %v", answer[:n], err)
	}
	await(t, "the key to be logged", func() error {
		if out := c.Server.Output(); !strings.Contains(out, stranger.Public().String()) {
			return errors.New(out)
		}
		return nil
	})
	if s := state(t, c, "b9"); s != "gone" {
		t.Errorf("b9 is %s", s)
	}
	allWorks(t, c, vips...)
}
