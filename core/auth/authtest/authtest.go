// Package authtest makes authorities and certificates for tests.
//
//	ca := authtest.NewAuthority("ca")
//	files, err := ca.Issue("b1.example.org").Write(dir, "b1", ca)
package authtest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/caplance/caplance/core/auth"
)

// Authority signs certificates.
type Authority struct {
	Certificate *x509.Certificate

	key   crypto.Signer
	chain []byte // PEM, of those between it and the root
}

// NewAuthority makes a root. change may alter its template.
func NewAuthority(name string, change ...func(*x509.Certificate)) *Authority {
	a := &Authority{key: NewKey()}
	t := authority(name, change)
	a.Certificate = sign(t, t, a.key.Public(), a.key)
	return a
}

// Intermediate makes an authority below this one.
func (a *Authority) Intermediate(name string, change ...func(*x509.Certificate)) *Authority {
	b := &Authority{key: NewKey()}
	b.Certificate = sign(authority(name, change), a.Certificate, b.key.Public(), a.key)
	b.chain = append(encode("CERTIFICATE", b.Certificate.Raw), a.chain...)
	return b
}

func authority(name string, change []func(*x509.Certificate)) *x509.Certificate {
	t := template(change)
	t.Subject.CommonName = name
	t.BasicConstraintsValid, t.IsCA = true, true
	t.KeyUsage, t.ExtKeyUsage = x509.KeyUsageCertSign, nil
	return t
}

// template is valid for a day, for servers and clients.
func template(change []func(*x509.Certificate)) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{"test"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, f := range change {
		f(t)
	}
	return t
}

// PEM returns the certificates of authorities, as a ca_file has them.
func PEM(list ...*Authority) (out []byte) {
	for _, a := range list {
		out = append(out, encode("CERTIFICATE", a.Certificate.Raw)...)
	}
	return out
}

// Issued is a certificate with its private key, PEM.
type Issued struct{ Chain, Key []byte }

// Issue signs a certificate of a new key with a DNS name or a URI; "" for none.
func (a *Authority) Issue(name string, change ...func(*x509.Certificate)) *Issued {
	return a.IssueFor(NewKey(), name, change...)
}

// IssueFor does so for a key.
func (a *Authority) IssueFor(key crypto.Signer, name string, change ...func(*x509.Certificate)) *Issued {
	named := func(t *x509.Certificate) {
		if u, err := url.Parse(name); strings.Contains(name, "://") && err == nil {
			t.URIs = []*url.URL{u}
		} else if name != "" {
			t.DNSNames = []string{name}
		}
	}
	t := template(append([]func(*x509.Certificate){named}, change...))
	cert := sign(t, a.Certificate, key.Public(), a.key)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err) // of a key that this package made
	}
	return &Issued{append(encode("CERTIFICATE", cert.Raw), a.chain...), encode("PRIVATE KEY", private)}
}

// Only has a certificate be good for one usage.
func Only(usage x509.ExtKeyUsage) func(*x509.Certificate) {
	return func(t *x509.Certificate) { t.ExtKeyUsage = []x509.ExtKeyUsage{usage} }
}

// Valid has a certificate be valid between two times, relative to now.
func Valid(from, until time.Duration) func(*x509.Certificate) {
	return func(t *x509.Certificate) { t.NotBefore, t.NotAfter = time.Now().Add(from), time.Now().Add(until) }
}

// Write writes name.ca.pem with the authorities, name.pem and name.key.pem into a
// directory.
func (i *Issued) Write(dir, name string, authorities ...*Authority) (auth.Files, error) {
	f := auth.Files{CA: filepath.Join(dir, name+".ca.pem"), Certificate: filepath.Join(dir, name+".pem"), Key: filepath.Join(dir, name+".key.pem")}
	return f, errors.Join(os.WriteFile(f.CA, PEM(authorities...), 0o644), os.WriteFile(f.Certificate, i.Chain, 0o644), os.WriteFile(f.Key, i.Key, 0o600))
}

// NewKey makes a key (ECDSA, P-256).
func NewKey() crypto.Signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return key
}

func sign(t, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, public, key)
	if err != nil {
		panic(err) // of templates of this package
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return cert
}

func encode(kind string, der []byte) []byte {
	var b bytes.Buffer
	if err := pem.Encode(&b, &pem.Block{Type: kind, Bytes: der}); err != nil {
		panic(err) // into memory
	}
	return b.Bytes()
}
