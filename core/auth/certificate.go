package auth

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Files are where a Certificate is read from, all PEM.
type Files struct {
	CA          string // certificates of the authorities that sign the other end's
	Certificate string // the machine's own, and then those between it and its authority
	Key         string // its private key
}

// List returns their paths, and where symbolic links lead: whoever renews certificates
// often keeps them elsewhere.
func (f Files) List() (out []string) {
	for _, file := range []string{f.CA, f.Certificate, f.Key} {
		if file == "" {
			continue
		}
		out = append(out, file)
		if real, err := filepath.EvalSymlinks(file); err == nil && real != file {
			out = append(out, real)
		}
	}
	return out
}

// FileError is an error about one of the Files, by the name of its key in the
// configuration: ca_file, cert_file, key_file.
type FileError struct {
	Key string
	Err error
}

func (e *FileError) Error() string { return e.Key + ": " + e.Err.Error() }

func (e *FileError) Unwrap() error { return e.Err }

// Certificate is a machine's identity by an authority: a chain with its private key,
// and the authorities that the other end's has to come from.
type Certificate struct {
	own   tls.Certificate
	names []string
	roots *x509.CertPool
	terms []Term
}

// Term is until when a certificate of a file is valid.
type Term struct {
	File        string
	Subject     string // its names, or the authority's
	Fingerprint string // 8 hexadecimal digits
	Authority   bool   // of the other end, not this machine's own
	From, Until time.Time
}

const (
	maxFile = 1 << 20 // bytes of PEM
	// maxChain leaves room for the rest of a handshake in maxUnproven, bytes.
	maxChain = 12 << 10
)

// LoadCertificate reads the files. usage is what the machine's own certificate has to
// be good for: x509.ExtKeyUsageServerAuth for a balancer, ClientAuth for an agent. An
// error is a *FileError. That a certificate has expired is none: see Failing.
func LoadCertificate(f Files, usage x509.ExtKeyUsage) (*Certificate, error) {
	c := &Certificate{}
	if err := c.loadAuthorities(f.CA); err != nil {
		return nil, &FileError{"ca_file", err}
	}
	chain, err := readFile(f.Certificate)
	if err != nil {
		return nil, &FileError{"cert_file", err}
	}
	key, err := readSecret(f.Key, maxFile)
	if err != nil {
		return nil, &FileError{"key_file", err}
	}
	if err := c.loadOwn(f.Certificate, chain, usage); err != nil {
		return nil, &FileError{"cert_file", fmt.Errorf("%s: %w", f.Certificate, err)}
	}
	if c.own, err = tls.X509KeyPair(chain, key); err != nil {
		return nil, &FileError{"key_file", fmt.Errorf("%s: %w (it has to be the unencrypted key of the first certificate in %s)", f.Key, err, f.Certificate)}
	}
	return c, nil
}

func (c *Certificate) loadAuthorities(file string) error {
	data, err := readFile(file)
	if err != nil {
		return err
	}
	list, err := parseCertificates(data)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	c.roots = x509.NewCertPool()
	for _, cert := range list {
		if !cert.BasicConstraintsValid || !cert.IsCA {
			return fmt.Errorf("%s: certificate of %s is no authority's (it lacks CA:TRUE; cert_file is where a machine's own belongs)", file, subject(cert))
		}
		c.roots.AddCert(cert)
		c.add(file, cert, true)
	}
	return nil
}

// loadOwn judges the machine's own chain as others will.
func (c *Certificate) loadOwn(file string, data []byte, usage x509.ExtKeyUsage) error {
	list, err := parseCertificates(data)
	if err != nil {
		return err
	}
	own, size := list[0], 0
	for _, cert := range list {
		size += len(cert.Raw)
		c.add(file, cert, false)
	}
	c.names = namesOf(own)
	switch {
	case size > maxChain:
		return fmt.Errorf("chain is %d bytes long, and nobody reads more than %d (leave the authority's own certificate out)", size, maxChain)
	case len(c.names) == 0:
		return fmt.Errorf("certificate of %s has no DNS name and no URI among its subject alternative names, so that it stands for nobody", subject(own))
	case len(own.ExtKeyUsage)+len(own.UnknownExtKeyUsage) > 0 && !slices.Contains(own.ExtKeyUsage, usage) && !slices.Contains(own.ExtKeyUsage, x509.ExtKeyUsageAny):
		return fmt.Errorf("certificate of %s is not for this: its extended key usage lacks %s", subject(own), usageNames[usage])
	}
	return nil
}

var usageNames = map[x509.ExtKeyUsage]string{x509.ExtKeyUsageServerAuth: "serverAuth", x509.ExtKeyUsageClientAuth: "clientAuth"}

func (c *Certificate) add(file string, cert *x509.Certificate, authority bool) {
	t := Term{file, subject(cert), fingerprint(cert), authority, cert.NotBefore, cert.NotAfter}
	if !slices.ContainsFunc(c.terms, func(o Term) bool { return o.File == t.File && o.Fingerprint == t.Fingerprint }) {
		c.terms = append(c.terms, t)
	}
}

// readFile reads what anybody may know.
func readFile(file string) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO would wait for its writer
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", file)
	}
	if err != nil {
		return nil, err
	}
	return readAll(f, maxFile)
}

// readAll reads at most so many bytes; a longer file is an error.
func readAll(f *os.File, most int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%s is longer than %d bytes", f.Name(), most)
	}
	return data, err
}

// parseCertificates returns the certificates among what PEM holds, at least one.
func parseCertificates(data []byte) (list []*x509.Certificate, err error) {
	for len(data) > 0 {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(list)+1, err)
		}
		list = append(list, cert)
	}
	if len(list) == 0 {
		return nil, errors.New("no certificate is in it (PEM: -----BEGIN CERTIFICATE-----)")
	}
	return list, nil
}

// namesOf returns a certificate's DNS names and URIs that a Pattern can mean. Those of
// a wildcard stand for no single machine.
func namesOf(cert *x509.Certificate) (out []string) {
	add := func(name string, err error) {
		if err == nil && !strings.Contains(name, Any) && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	for _, n := range cert.DNSNames {
		add(canonicalDNS(n))
	}
	for _, u := range cert.URIs {
		add(canonicalURI(u))
	}
	return out
}

// subject says in short whose certificate it is.
func subject(cert *x509.Certificate) string {
	if names := namesOf(cert); len(names) > 0 {
		return clip(strings.Join(names, ", "))
	}
	return fmt.Sprintf("%q", clip(cert.Subject.String()))
}

func (c *Certificate) shown() *tls.Certificate { return &c.own }

// identify implements Credentials: the chain has to lead to an authority, be valid now
// and good for the usage, and name somebody.
func (c *Certificate) identify(chain []*x509.Certificate, usage x509.ExtKeyUsage) (*Identity, error) {
	between := x509.NewCertPool()
	for _, cert := range chain[1:] {
		between.AddCert(cert)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: c.roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}})
	names := namesOf(chain[0])
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &unknown) && len(names) == 0 && chain[0].Subject.String() == "": // as wrap makes them
		return nil, errors.New("other end has a key, and certificates are asked for")
	case errors.As(err, &unknown):
		return nil, fmt.Errorf("certificate of %s comes from none of the authorities in ca_file", subject(chain[0]))
	case err != nil:
		return nil, fmt.Errorf("certificate of %s is not good: %w", subject(chain[0]), err)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("certificate of %s names nobody: it has no DNS name and no URI", subject(chain[0]))
	}
	return &Identity{chain: chain, usage: usage, roots: c.roots, names: names}, nil
}

// Check implements Credentials.
func (c *Certificate) Check(id *Identity) error {
	if id.chain == nil {
		return errors.New("it has proven a key, and certificates are asked for from now on")
	}
	if c.roots.Equal(id.roots) && time.Now().Before(id.Expires()) { // the usual case, without a signature
		return nil
	}
	_, err := c.identify(id.chain, id.usage)
	return err
}

// Introduce implements Credentials.
func (c *Certificate) Introduce(name string) string {
	return fmt.Sprintf("certificate, of %s until %s (its log says why; its file needs [[agent]] name = %q, san = [%q])",
		strings.Join(c.names, ", "), date(c.own.Leaf.NotAfter), name, c.names[0])
}

// Identity implements Credentials.
func (c *Certificate) Identity() *Identity {
	return &Identity{chain: []*x509.Certificate{c.own.Leaf}, names: c.names}
}

// date is how expiry is written for people.
func date(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

// Terms returns until when the certificates of credentials are valid, none for keys.
func Terms(own Credentials) []Term {
	if c, ok := own.(*Certificate); ok {
		return slices.Clone(c.terms)
	}
	return nil
}

// Failing returns why nobody takes these credentials now, or they take nobody; nil: all
// is well.
func Failing(own Credentials, now time.Time) error {
	authorities, valid := 0, 0
	var last Term
	for _, t := range Terms(own) {
		switch bad := t.fails(now); {
		case bad != nil && !t.Authority:
			return fmt.Errorf("%w: nobody takes it (renew it, and reload)", bad)
		case t.Authority:
			authorities++
			if last = t; bad == nil {
				valid++
			}
		}
	}
	if authorities > 0 && valid == 0 {
		return fmt.Errorf("%w, as any other in the file: nobody is taken (put another authority there, and reload)", last.fails(now))
	}
	return nil
}

func (t *Term) fails(now time.Time) error {
	switch {
	case now.After(t.Until):
		return fmt.Errorf("certificate of %s in %s has expired on %s", t.Subject, t.File, date(t.Until))
	case now.Before(t.From):
		return fmt.Errorf("certificate of %s in %s is not valid before %s", t.Subject, t.File, date(t.From))
	}
	return nil
}

// soon is how long before its end a certificate is warned of, but not before the last
// third of its life.
const soon = 14 * 24 * time.Hour

// Expiring returns what is to be said of certificates that have ended or end soon.
func Expiring(own Credentials, now time.Time) (out []string) {
	for _, t := range Terms(own) {
		if text := t.warning(now); text != "" {
			out = append(out, text)
		}
	}
	return out
}

func (t *Term) warning(now time.Time) string {
	left := t.Until.Sub(now)
	switch err := t.fails(now); {
	case err != nil && t.Authority:
		return err.Error() + " (take it out)"
	case err != nil:
		return err.Error() + " (renew it, and reload)"
	case left < min(soon, t.Until.Sub(t.From)/3):
		return fmt.Sprintf("certificate of %s in %s expires in %s, on %s (renew it, and reload)", t.Subject, t.File, rough(left), date(t.Until))
	}
	return ""
}

// rough returns a duration in its largest unit.
func rough(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", d/time.Hour)
	}
	return fmt.Sprintf("%d minutes", d/time.Minute)
}

// Replaces returns why next should not take the place of old, nil: it may. A certificate
// that nobody takes is a mistake when it is new, and no reason to refuse another change
// when it has been there.
func Replaces(old, next Credentials, now time.Time) error {
	err := Failing(next, now)
	if err == nil || slices.Equal(Terms(old), Terms(next)) {
		return nil
	}
	return err
}

// Reminder brings up certificates that end soon, each once a day.
type Reminder struct{ last map[string]time.Time }

// Due returns what is to be said now.
func (r *Reminder) Due(own Credentials, now time.Time) (out []string) {
	for _, t := range Terms(own) {
		text := t.warning(now)
		if text == "" || now.Sub(r.last[t.Fingerprint]) < 24*time.Hour {
			continue
		}
		if r.last == nil {
			r.last = map[string]time.Time{}
		}
		r.last[t.Fingerprint] = now
		out = append(out, text)
	}
	return out
}
