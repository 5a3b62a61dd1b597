package auth

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// only knows these keys.
func only(keys ...PublicKey) func(*Identity) error {
	return func(id *Identity) error {
		if !id.In(keys, nil) {
			return &UnknownError{id}
		}
		return nil
	}
}

func never() bool { return false }

// meet has two ends shake hands over TCP, where each reads a byte of the other,
// and returns how each fared.
func meet(t *testing.T, client func(net.Conn) (net.Conn, error), balancer Credentials, known func(*Identity) error, joinable func() bool) (agentErr error, agent *Identity, balancerErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		c, err := net.Dial("tcp", l.Addr().String())
		if err == nil {
			defer c.Close()
			c.SetDeadline(time.Now().Add(10 * time.Second))
			if c, err = client(c); err == nil {
				if _, err = c.Write([]byte("a")); err == nil {
					_, err = io.ReadFull(c, make([]byte, 1))
				}
			}
		}
		done <- err
	}()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	proven := Server(c, balancer, known, joinable)
	if agent, balancerErr = proven.Prove(ctx); balancerErr == nil {
		c = proven
		_, balancerErr = io.ReadFull(c, make([]byte, 1))
		c.Write([]byte("b"))
	}
	return <-done, agent, balancerErr
}

func TestHandshake(t *testing.T) {
	agent, balancer, stranger := NewKeyPair(), NewKeyPair(), NewKeyPair()
	dial := func(pair *KeyPair, known func(*Identity) error) func(net.Conn) (net.Conn, error) {
		return func(c net.Conn) (net.Conn, error) {
			proven := Client(c, pair, known)
			id, err := proven.Prove(t.Context())
			if err == nil && id.Key != balancer.Public() {
				t.Errorf("the balancer is %s", id)
			}
			return proven, err
		}
	}
	for _, tt := range []struct {
		name            string
		client          func(net.Conn) (net.Conn, error)
		agent, balancer string // what is said there; "" for success
	}{
		{"both know each other", dial(agent, only(balancer.Public(), stranger.Public())), "", ""},
		{"an agent's key that is not known", dial(stranger, only(balancer.Public())), "remote error", "key " + stranger.Public().String() + " is not known"},
		{"a balancer's key that is not known", dial(agent, only(stranger.Public())), "key " + balancer.Public().String() + " is not known", "remote error"},
		{"an agent without TLS", func(c net.Conn) (net.Conn, error) {
			_, err := io.WriteString(c, "REGISTER a 10.0.0.1\n")
			return c, err
		},
			"EOF|reset", "other end speaks without TLS"},
		{"no certificate", func(c net.Conn) (net.Conn, error) {
			t := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocolName}})
			return t, t.Handshake()
		}, "certificate required", "client didn't provide a certificate"},
		{"another protocol", func(c net.Conn) (net.Conn, error) {
			t := tls.Client(c, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{agent.certificate}, NextProtos: []string{"h2"}})
			return t, t.Handshake()
		}, "no application protocol", "unsupported application protocols"},
		{"no protocol", func(c net.Conn) (net.Conn, error) {
			t := tls.Client(c, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{agent.certificate}})
			return t, t.Handshake()
		}, "bad certificate", "does not speak caplance/1"},
		{"TLS 1.2", func(c net.Conn) (net.Conn, error) {
			t := tls.Client(c, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{agent.certificate}, NextProtos: []string{protocolName}})
			return t, t.Handshake()
		}, "protocol version", "unsupported versions"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			agentErr, id, balancerErr := meet(t, tt.client, balancer, only(agent.Public()), never)
			said(t, "agent", agentErr, tt.agent)
			said(t, "balancer", balancerErr, tt.balancer)
			if tt.balancer == "" && id.Key != agent.Public() {
				t.Errorf("the agent is %s", id)
			}
			if got := Refused(agentErr); got != (tt.agent == "remote error" || tt.agent == "bad certificate") {
				t.Errorf("Refused(%v) is %v", agentErr, got)
			}
		})
	}
}

// One that wants to join gets in with any key while a token is out, and is known for
// it; it wants to know the balancer's all the same.
func TestJoinHandshake(t *testing.T) {
	balancer, stranger := NewKeyPair(), NewKeyPair()
	for _, tt := range []struct {
		name            string
		knows           PublicKey
		out             bool
		agent, balancer string
	}{
		{"a token is out", balancer.Public(), true, "", ""},
		{"no token is out", balancer.Public(), false, "remote error", "no token is out"},
		{"another balancer", stranger.Public(), true, "is not known", "remote error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client := func(c net.Conn) (net.Conn, error) {
				proven := Joiner(c, stranger, only(tt.knows))
				_, err := proven.Prove(t.Context())
				return proven, err
			}
			agentErr, id, balancerErr := meet(t, client, balancer, only(), func() bool { return tt.out })
			said(t, "agent", agentErr, tt.agent)
			said(t, "balancer", balancerErr, tt.balancer)
			if tt.balancer == "" && id.Key != stranger.Public() {
				t.Errorf("the key is %s", id)
			}
		})
	}
}

func said(t *testing.T, who string, err error, want string) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Errorf("%s: %v", who, err)
		}
		return
	}
	for _, w := range strings.Split(want, "|") {
		if err != nil && strings.Contains(err.Error(), w) {
			return
		}
	}
	t.Errorf("%s: %v, want %q", who, err, want)
}

// Who says nothing is not waited for beyond ctx.
func TestSilence(t *testing.T) {
	here, there := net.Pipe()
	defer there.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := Server(here, NewKeyPair(), only(), never).Prove(ctx)
	said(t, "balancer", err, "did not finish its handshake in time")
	if _, err := there.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is open")
	}
}

func TestKeyFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	pair := NewKeyPair()
	if err := pair.Save(file); err != nil {
		t.Fatal(err)
	}
	got, err := LoadKeyPair(file)
	if err != nil || got.Public() != pair.Public() {
		t.Fatalf("read %v, %v", got, err)
	}
	if err := NewKeyPair().Save(file); !errors.Is(err, os.ErrExist) {
		t.Errorf("a key was overwritten: %v", err)
	}
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	_, err = LoadKeyPair(file)
	said(t, "mode", err, "chmod 600")
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(file, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		_, err = LoadKeyPair(file)
		said(t, "owner", err, "its owner, user 65534")
	}
	_, err = LoadKeyPair(filepath.Dir(file))
	said(t, "directory", err, "is no regular file")
	if err := unix.Mkfifo(file+".fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = LoadKeyPair(file + ".fifo")
	said(t, "FIFO", err, "is no regular file")
	_, err = LoadKeyPair(file + "2")
	said(t, "missing", err, "caplance keygen")
	public, err := ParsePublicKey(pair.Public().String())
	if err != nil || public != pair.Public() {
		t.Errorf("public key: %v, %v", public, err)
	}
}

func FuzzKeys(f *testing.F) {
	f.Add(header + "\n" + base64.StdEncoding.EncodeToString(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))) + "\n")
	f.Add("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	f.Fuzz(func(t *testing.T, text string) {
		if k, err := ParsePublicKey(text); err == nil && k.String() != text {
			t.Errorf("%q is read as %s", text, k)
		}
		if p, err := parseKeyPair([]byte(text)); err == nil && len(p.private) == 0 {
			t.Error("no key")
		}
	})
}

// One that proves nothing is not listened to for long.
func TestEndlessHandshake(t *testing.T) {
	here, there := net.Pipe()
	defer there.Close()
	sent := make(chan int, 1)
	go func() {
		n := 0
		// A handshake record that begins a ClientHello of 128 KiB.
		record := append([]byte{22, 3, 1, 0x40, 0}, make([]byte, 0x4000)...)
		copy(record[5:], []byte{1, 2, 0, 0})
		for {
			m, err := there.Write(record)
			if n += m; err != nil {
				sent <- n
				return
			}
			record = append([]byte{22, 3, 1, 0x40, 0}, make([]byte, 0x4000)...)
		}
	}()
	_, err := Server(here, NewKeyPair(), only(), never).Prove(t.Context())
	said(t, "balancer", err, "longer than any should be")
	if n := <-sent; n > 2*maxUnproven {
		t.Errorf("%d bytes were taken", n)
	}
}

// The other end does not read: a write ends in time, and Close at once.
func TestDeaf(t *testing.T) {
	agent, balancer := NewKeyPair(), NewKeyPair()
	here, there := net.Pipe()
	defer there.Close()
	proven := make(chan error, 1)
	go func() {
		_, err := Client(there, agent, only(balancer.Public())).Prove(t.Context())
		proven <- err
	}()
	c := Server(here, balancer, only(agent.Public()), never)
	if _, err := c.Prove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-proven; err != nil {
		t.Fatal(err)
	}
	below := c.NetConn().(*transport)
	c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	for range 2 { // what TLS writes by itself, each time
		if _, err := below.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write to somebody who does not read: %v", err)
		}
	}
	c.SetWriteDeadline(time.Now().Add(time.Hour))
	writing := make(chan error)
	go func() {
		close(writing)
		below.Write([]byte("x"))
	}()
	<-writing
	began := time.Now()
	if err := c.Close(); err != nil || time.Since(began) > time.Second {
		t.Errorf("closed after %v, %v", time.Since(began), err)
	}
}
