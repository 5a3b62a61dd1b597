package auth

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// PublicKey is the public half of a pair: who has the private one is who it
// stands for. Its text is 44 characters of base64.
type PublicKey [ed25519.PublicKeySize]byte

func (k PublicKey) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// ParsePublicKey reads what String wrote.
func ParsePublicKey(text string) (k PublicKey, err error) {
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != len(k) || len(text) != base64.StdEncoding.EncodedLen(len(k)) { // the decoder skips line ends
		return k, fmt.Errorf("%q is not a public key: caplance keygen prints one, 44 characters that end in =", clip(text))
	}
	return PublicKey(b), nil
}

// clip shortens what may be somebody's whole file.
func clip(s string) string {
	const most = 60
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// KeyPair is a machine's identity (Ed25519, RFC 8032).
type KeyPair struct {
	private     ed25519.PrivateKey
	certificate tls.Certificate
}

// NewKeyPair makes one.
func NewKeyPair() *KeyPair {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return &KeyPair{private, wrap(private)}
}

// Public returns the half that others may know.
func (p *KeyPair) Public() PublicKey { return PublicKey(p.private.Public().(ed25519.PublicKey)) }

// header is the first line of a key file.
const header = "caplance private key, ed25519"

// Save writes the pair to a new file that nobody else can read. It never takes
// an existing file's place: that key may be listed somewhere.
func (p *KeyPair) Save(file string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s\n%s\n", header, base64.StdEncoding.EncodeToString(p.private))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		err = errors.Join(err, os.Remove(file)) // half a key is none
	}
	return err
}

// shown implements Credentials.
func (p *KeyPair) shown() *tls.Certificate { return &p.certificate }

// LoadKeyPair reads a key file. One that others can read is refused: they have
// the key.
func LoadKeyPair(file string) (*KeyPair, error) {
	data, err := readSecret(file, 1024)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w (caplance keygen %s makes one)", err, file)
	}
	if err != nil {
		return nil, err
	}
	p, err := parseKeyPair(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return p, nil
}

// readSecret reads a file that only this user can read, or refuses it.
func readSecret(file string, most int64) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO would wait for its writer
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file", file)
	case owner != 0 && int(owner) != os.Geteuid():
		return nil, fmt.Errorf("%s: its owner, user %d, can read it (chown root %[1]s, or better, make a new key)", file, owner)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%s: others can read or write it (mode %#o): chmod 600 %[1]s, or better, make a new key", file, info.Mode().Perm())
	}
	return readAll(f, most)
}

func parseKeyPair(data []byte) (*KeyPair, error) {
	first, rest, _ := bytes.Cut(data, []byte("\n"))
	private, err := base64.StdEncoding.Strict().DecodeString(string(bytes.TrimSpace(rest)))
	if string(bytes.TrimSpace(first)) != header || err != nil || len(private) != ed25519.PrivateKeySize ||
		!bytes.Equal(private, ed25519.NewKeyFromSeed(private[:ed25519.SeedSize])) {
		return nil, errors.New("not a key file of caplance keygen")
	}
	return &KeyPair{private, wrap(private)}, nil
}
