package auth

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Identity is who the other end of a connection has proven to be: one who has a key,
// or one whom a certificate names. It is immutable.
type Identity struct {
	Key PublicKey // the zero value with a certificate

	chain []*x509.Certificate // as it was shown, its own first; none with a key
	usage x509.ExtKeyUsage    // that it was verified for
	roots *x509.CertPool      // by which
	names []string            // of the certificate, DNS names and URIs as canonical writes them
}

// Identity returns who has a key.
func (k PublicKey) Identity() *Identity { return &Identity{Key: k} }

// Kind returns by what it was proven: key or certificate.
func (id *Identity) Kind() string {
	if id.chain == nil {
		return "key"
	}
	return "certificate"
}

// String returns the key, or the certificate's names and the begin of its SHA-256,
// which tells it from the next one.
func (id *Identity) String() string {
	if id.chain == nil {
		return id.Key.String()
	}
	return fmt.Sprintf("%s (%s)", strings.Join(id.names, ", "), fingerprint(id.chain[0]))
}

// Expires returns when it ends by itself, the zero time for never.
func (id *Identity) Expires() time.Time {
	if id.chain == nil {
		return time.Time{}
	}
	return id.chain[0].NotAfter
}

// In reports whether it is that of a listed key, or has a name that a pattern matches.
func (id *Identity) In(keys []PublicKey, sans []Pattern) bool {
	if id.chain == nil {
		return slices.Contains(keys, id.Key)
	}
	return slices.ContainsFunc(sans, func(p Pattern) bool {
		return slices.ContainsFunc(id.names, func(name string) bool { _, ok := p.match(name); return ok })
	})
}

// Same reports whether two connections are of one key or one certificate; nil is one
// that has proven nothing.
func Same(a, b *Identity) bool {
	switch {
	case a == nil || b == nil:
		return a == b
	case a.chain == nil || b.chain == nil:
		return a.chain == nil && b.chain == nil && a.Key == b.Key
	}
	return a.chain[0].Equal(b.chain[0])
}

// fingerprint returns 8 hexadecimal digits that tell certificates apart.
func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:4])
}

// UnknownError says that nobody here lists the other end.
type UnknownError struct{ *Identity }

func (e *UnknownError) Error() string {
	return fmt.Sprintf("%s %s is not known here", e.Kind(), e.Identity)
}

// Credentials are what an end of a connection proves itself by, and how it finds out
// who the other end is: a *KeyPair or a *Certificate. They are immutable.
type Credentials interface {
	// Identity returns who others take this end for.
	Identity() *Identity
	// Check returns why an identity, proven before by these credentials or others, is
	// none any more by these; nil: it is.
	Check(id *Identity) error
	// Introduce returns how an operator lets an agent with these credentials in, to
	// follow "it does not know this agent's".
	Introduce(name string) string

	shown() *tls.Certificate // whose key it has
	identify(chain []*x509.Certificate, usage x509.ExtKeyUsage) (*Identity, error)
}

// Identity implements Credentials.
func (p *KeyPair) Identity() *Identity { return p.Public().Identity() }

// Check implements Credentials.
func (p *KeyPair) Check(id *Identity) error {
	if id.chain != nil {
		return errors.New("it has proven a certificate, and keys are asked for from now on")
	}
	return nil
}

// Introduce implements Credentials.
func (p *KeyPair) Introduce(name string) string {
	return fmt.Sprintf("key (add to its file: [[agent]] name = %q, keys = [%q])", name, p.Public())
}

// identify implements Credentials: nobody looks at anything but the key.
func (p *KeyPair) identify(chain []*x509.Certificate, _ x509.ExtKeyUsage) (*Identity, error) {
	return keyOf(chain)
}
