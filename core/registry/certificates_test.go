package registry

import (
	"context"
	"crypto/x509"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/auth/authtest"
	"github.com/caplance/caplance/core/protocol"
)

// certified has the registry ask for certificates of an authority; agents are those with
// a name below agents.example.org.
func (w *testbed) certified(others ...*authtest.Authority) Settings {
	w.t.Helper()
	set := testSettings()
	set.Own = w.certificate(others[0].Issue("lb.example.org"), x509.ExtKeyUsageServerAuth, others...)
	san, err := auth.ParsePattern("*.agents.example.org")
	if err != nil {
		w.t.Fatal(err)
	}
	set.Known = []auth.Agent{{Name: "web-*", SANs: []auth.Pattern{san}, Allow: anywhere, MaxWeight: 1, MaxNames: 1}}
	w.r.Update(set)
	return set
}

func (w *testbed) certificate(i *authtest.Issued, usage x509.ExtKeyUsage, others ...*authtest.Authority) *auth.Certificate {
	w.t.Helper()
	f, err := i.Write(w.t.TempDir(), "m", others...)
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := auth.LoadCertificate(f, usage)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// certifies is a peer with a certificate of an authority.
func (w *testbed) certifies(ca *authtest.Authority, name string, change ...func(*x509.Certificate)) proveFunc {
	w.t.Helper()
	id := w.certificate(ca.Issue(name+".agents.example.org", change...), x509.ExtKeyUsageClientAuth, ca).Identity()
	return func(context.Context) (*auth.Identity, error) { return id, nil }
}

// Each agent that a pattern stands for has its own name, and nobody has another's, not
// even a name that is lost or a second stream.
func TestPatternOfAgents(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		ca := authtest.NewAuthority("ca")
		set := w.certified(ca)
		first, second := w.certifies(ca, "1"), w.certifies(ca, "2")
		p := w.connectBy(first)
		p.ask("REGISTER web-2 10.0.0.1", "INVALID it is agent web-1, which may not register as web-2")
		p.ask("REGISTER web-1-a 10.0.0.1", "INVALID it is agent web-1, which may not register as web-1-a")
		p.send("REGISTER web-1 10.0.0.1 v=2 connections=yes")
		p.send("SANE " + w.nonce("10.0.0.1"))
		line, err := p.ReadLine()
		reply, _ := protocol.ParseReply(line)
		token := reply.Options["connections"]
		if err != nil || token == "" {
			t.Fatalf("%q, %v: no token", line, err)
		}
		stream := w.connectBy(second)
		stream.ask("CONNECTIONS web-1 "+token, "INVALID token is not that of a session of this name")
		stream.hangUp()
		stream = w.connectBy(first)
		stream.ask("CONNECTIONS web-1 "+token, "CONNECTIONS web-1")
		stream.hangUp()
		q := w.connectBy(second)
		q.ask("REGISTER web-1 10.0.0.1", "INVALID it is agent web-2")
		q.send("REGISTER web-2 10.0.0.2")
		q.ask("SANE "+w.nonce("10.0.0.2"), "REGISTERED web-2")

		sessions := w.r.Sessions()
		if len(sessions) != 2 || sessions[0].Backend != "web-1" || sessions[1].Agent != "web-2" || sessions[0].Proven.Kind() != "certificate" {
			t.Errorf("sessions %+v", sessions)
		}
		p.hangUp()
		w.until("web-1 lost, web-2 active")
		q.hangUp()
		q = w.connectBy(second)
		q.ask("REGISTER web-1 10.0.0.1", "INVALID it is agent web-2")

		p = w.connectBy(first)
		p.send("REGISTER web-1 10.0.0.1")
		p.ask("SANE "+w.nonce("10.0.0.1"), "REGISTERED web-1")
		set.Known = []auth.Agent{set.Known[0]}
		set.Known[0].Name = "*"
		w.r.Update(set)
		p.expect("DEREGISTERED web-1 it is agent 1, which may not register as web-1") // the name is another's: that of who has web-1.agents.example.org
		p.hangUp()
		q.hangUp()
	})
}

// A session ends with its certificate, and the agent goes on by its next one.
func TestCertificateEnds(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		ca := authtest.NewAuthority("ca")
		w.certified(ca)
		register := func(prove proveFunc) *peer {
			p := w.connectBy(prove)
			p.send("REGISTER web-1 10.0.0.1")
			p.ask("SANE "+w.nonce("10.0.0.1"), "REGISTERED web-1")
			return p
		}
		p := register(w.certifies(ca, "1", authtest.Valid(-time.Hour, 10*time.Second)))
		began := time.Now()
		if line, err := p.ReadLine(); err == nil {
			t.Errorf("the session goes on with %q", line)
		}
		within(t, "ended", time.Since(began), 9*time.Second, 10*time.Second+time.Millisecond)
		w.until("web-1 lost")
		since := w.backend("web-1").Since
		p = register(w.certifies(ca, "1"))
		w.until("web-1 active")
		if !w.backend("web-1").Since.Equal(since) {
			t.Error("it is another backend: its flows have ended")
		}
		p.hangUp()

		p = w.connectBy(w.certifies(ca, "1", authtest.Valid(-time.Hour, 10*time.Second))) // says nothing
		time.Sleep(11 * time.Second)
		if line, err := p.ReadLine(); err == nil {
			t.Errorf("who has not registered goes on with %q", line)
		}
		synctest.Wait()
	})
}

// A reload that takes an authority out, or asks for keys, ends the sessions by its
// certificates, and no others.
func TestAuthorityGoes(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		old, next := authtest.NewAuthority("ca"), authtest.NewAuthority("ca")
		set := w.certified(old, next)
		p, q := w.connectBy(w.certifies(old, "1")), w.connectBy(w.certifies(next, "2"))
		p.send("REGISTER web-1 10.0.0.1")
		p.ask("SANE "+w.nonce("10.0.0.1"), "REGISTERED web-1")
		q.send("REGISTER web-2 10.0.0.2")
		q.ask("SANE "+w.nonce("10.0.0.2"), "REGISTERED web-2")
		w.certified(next, old) // the files were read again
		w.until("web-1 active, web-2 active")
		w.certified(next)
		if line, err := p.ReadLine(); err == nil {
			t.Errorf("the session by an authority that is gone goes on with %q", line)
		}
		w.until("web-1 lost, web-2 active")
		set.Own = auth.NewKeyPair()
		w.r.Update(set)
		if line, err := q.ReadLine(); err == nil {
			t.Errorf("the session by a certificate goes on with %q, and keys are asked for", line)
		}
		w.until("web-1 lost, web-2 lost")
	})
}
