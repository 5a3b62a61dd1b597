// Package auth says who is at the other end of a connection between an agent and
// a balancer. TLS 1.3 (RFC 8446) proves it, and nobody reads along. Either both have
// a key pair and know the other's public half, as in WireGuard, or both have a
// certificate (RFC 5280) of an authority that the other end trusts. Who uses a
// connection sees its Credentials and the other end's Identity, and not which.
//
//	own, err := auth.LoadKeyPair("/etc/caplance/balancer.key") // or LoadCertificate
//	conn := auth.Server(conn, own, known, joinable) // the balancer's end; Client is the agent's
//	id, err := conn.Prove(ctx)
package auth

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

// protocolName keeps a connection that was meant for something else out (ALPN,
// RFC 7301).
const protocolName = "caplance/1"

// joinName is that of a connection of one whose key is not known yet, and who has a
// token.
const joinName = "caplance-join/1"

// Conn is a connection on which nothing passes before both ends have proven who
// they are.
type Conn struct {
	*tls.Conn
	below *transport
	peer  *Identity // since the handshake
}

// Close ends the connection at once, whatever the other end does: tls.Conn's says
// good-bye first, and waits for whoever writes.
func (c *Conn) Close() error { return c.below.Conn.Close() }

// Server is the balancer's end of a connection that an agent opened. known returns why
// the agent may not speak; it is not asked of one that wants to join while joinable
// says yes: then it has to have a token, see Joins. With certificates nobody joins.
func Server(conn net.Conn, own Credentials, known func(*Identity) error, joinable func() bool) *Conn {
	c := &Conn{below: newTransport(conn)}
	cfg := c.config(own, x509.ExtKeyUsageClientAuth, known)
	if pair, ok := own.(*KeyPair); ok {
		cfg.NextProtos = []string{protocolName, joinName}
		verify := cfg.VerifyConnection
		cfg.VerifyConnection = func(s tls.ConnectionState) (err error) {
			switch {
			case s.NegotiatedProtocol != joinName:
				return verify(s)
			case !joinable():
				return errors.New("other end wants to join, but no token is out")
			}
			c.peer, err = pair.identify(s.PeerCertificates, x509.ExtKeyUsageClientAuth)
			return err
		}
	}
	cfg.ClientAuth = tls.RequireAnyClientCert // VerifyConnection judges it
	cfg.SessionTicketsDisabled = true
	c.Conn = tls.Server(c.below, cfg)
	return c
}

// Client is the agent's end. known returns why a balancer is not the agent's. That a
// balancer does not know the agent is learnt only when the connection is read: Refused
// reports it.
func Client(conn net.Conn, own Credentials, known func(*Identity) error) *Conn {
	return client(conn, own, known, protocolName)
}

// Joiner is the agent's end of a connection to join by.
func Joiner(conn net.Conn, pair *KeyPair, known func(*Identity) error) *Conn {
	return client(conn, pair, known, joinName)
}

func client(conn net.Conn, own Credentials, known func(*Identity) error, protocol string) *Conn {
	c := &Conn{below: newTransport(conn)}
	cfg := c.config(own, x509.ExtKeyUsageServerAuth, known)
	cfg.NextProtos = []string{protocol}
	cfg.InsecureSkipVerify = true // of a host's name: VerifyConnection judges the chain, and known the names
	c.Conn = tls.Client(c.below, cfg)
	return c
}

// Joins reports, after Prove, whether the other end wants to join: its key is anybody's.
func (c *Conn) Joins() bool { return c.ConnectionState().NegotiatedProtocol == joinName }

// Prove shakes hands and returns who the other end is. It ends with ctx; on an error
// the connection is closed.
func (c *Conn) Prove(ctx context.Context) (*Identity, error) {
	if err := c.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, explain(err)
	}
	if c.peer == nil {
		c.Close()
		return nil, errors.New("other end has proven nothing")
	}
	c.below.proven()
	return c.peer, nil
}

// Refused reports whether an error of a connection says that the other end does not
// take this one's key or certificate.
func Refused(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error" && op.Err.Error() == "tls: bad certificate" // its type is not exported
}

// config has the other end identified for a usage of its certificate, and then known.
func (c *Conn) config(own Credentials, usage x509.ExtKeyUsage, known func(*Identity) error) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{protocolName},
		Certificates: []tls.Certificate{*own.shown()},
		VerifyConnection: func(s tls.ConnectionState) error {
			if s.NegotiatedProtocol != protocolName && s.NegotiatedProtocol != joinName {
				return fmt.Errorf("other end does not speak %s", protocolName)
			}
			id, err := own.identify(s.PeerCertificates, usage)
			if err == nil {
				err = known(id)
			}
			if err == nil {
				c.peer = id
			}
			return err
		},
	}
}

// keyOf returns who has the key of a certificate that TLS has proven.
func keyOf(chain []*x509.Certificate) (*Identity, error) {
	if len(chain) != 1 {
		return nil, errors.New("other end has a chain of certificates, and keys are asked for")
	}
	key, ok := chain[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("other end's key is not of Ed25519: has it a certificate of an authority, where keys are asked for?")
	}
	return PublicKey(key).Identity(), nil
}

// explain says what a failed handshake means to an operator.
func explain(err error) error {
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &record):
		return errors.New("other end speaks without TLS: it has no key and no certificate configured")
	case errors.Is(err, context.DeadlineExceeded):
		return errors.New("other end did not finish its handshake in time")
	}
	return err
}

// wrap makes a certificate of a key, as TLS wants it. Nobody looks at anything else in
// it.
func wrap(private ed25519.PrivateKey) tls.Certificate {
	shell := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // none (RFC 5280, §4.1.2.5)
	}
	der, err := x509.CreateCertificate(nil, shell, shell, private.Public(), private)
	if err != nil {
		panic(err) // of a template that is always the same
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}
}
