package auth

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
)

// Token lets one agent enrol at a balancer: it says where that is, by which key it is
// known, and what proves that the balancer's operator has let the agent in. Whoever
// has it may take the agent's place, once, until it expires.
type Token struct {
	Server string // host:port
	Key    PublicKey
	Secret [16]byte
}

// NewToken makes one.
func NewToken(server string, key PublicKey) Token {
	t := Token{Server: server, Key: key}
	rand.Read(t.Secret[:])
	return t
}

// tokenPrefix tells a token from other long words, and its version.
const tokenPrefix = "caplance1-"

// sumSize is how many bytes of its SHA-256 end a token: enough for one that was cut, or
// copied by hand.
const sumSize = 4

// String returns one word: the balancer's key, the secret, the address and their sum in
// base64.
func (t Token) String() string {
	b := append(append(t.Key[:], t.Secret[:]...), t.Server...)
	sum := sha256.Sum256(b)
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(append(b, sum[:sumSize]...))
}

// ParseToken reads what String wrote.
func ParseToken(text string) (t Token, err error) {
	word, ok := strings.CutPrefix(strings.TrimSpace(text), tokenPrefix)
	b, err := base64.RawURLEncoding.Strict().DecodeString(word)
	if !ok || err != nil || strings.ContainsAny(word, "\r\n") || len(b) <= len(t.Key)+len(t.Secret)+sumSize {
		return t, errors.New("token is not one that caplancectl token create prints: " + tokenPrefix + "…")
	}
	b, got := b[:len(b)-sumSize], b[len(b)-sumSize:]
	if sum := sha256.Sum256(b); !bytes.Equal(got, sum[:sumSize]) {
		return t, errors.New("token is not whole: copy all of what caplancectl token create printed")
	}
	n := copy(t.Key[:], b)
	n += copy(t.Secret[:], b[n:])
	t.Server = string(b[n:])
	if _, _, err := net.SplitHostPort(t.Server); err != nil || len(t.Server) > 260 {
		return t, fmt.Errorf("token: %q is not host:port", clip(t.Server))
	}
	return t, nil
}

// SecretHash is all that a balancer keeps of a token.
type SecretHash [sha256.Size]byte

// HashSecret returns the hash of a token's secret, which is random enough for one
// round.
func HashSecret(secret []byte) SecretHash { return sha256.Sum256(secret) }
