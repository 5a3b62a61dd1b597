// Package enrol keeps the agents that joined a balancer by a token, and the tokens
// that are out, in a file of the balancer's own beside its configuration.
//
//	s, err := enrol.Open(path)
//	err = s.Create(enrol.Token{Agent: auth.Agent{Name: "web1"}, Hash: hash, Expires: at})
//	agent, err := s.Redeem(secret, key, time.Now()) // by the agent, once
//	agents := s.Agents()
package enrol

import (
	"bytes"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/BurntSushi/toml"
	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/protocol"
)

// Token is one that is out: who has its secret may enrol as the agent, until it
// expires.
type Token struct {
	Agent   auth.Agent // without keys
	Hash    auth.SecretHash
	Expires time.Time
}

// maxTokens are out at once.
const maxTokens = 1000

// Store is the file and what is in it. Its methods may be called concurrently.
type Store struct {
	path string

	mu     sync.Mutex
	agents []auth.Agent
	tokens []Token
}

// document mirrors the file; an agent is as the configuration's [[agent]].
type document struct {
	Agents []rawAgent `toml:"agent"`
	Tokens []rawToken `toml:"token"`
}

type rawAgent struct {
	Name      string   `toml:"name"`
	Keys      []string `toml:"keys,omitempty"`
	Allow     []string `toml:"allow,omitempty"`
	Services  []string `toml:"services,omitempty"`
	MaxWeight uint32   `toml:"max_weight"`
	MaxNames  int      `toml:"max_names"`
}

type rawToken struct {
	Agent   rawAgent  `toml:"agent"`
	Hash    string    `toml:"hash"`
	Expires time.Time `toml:"expires"`
}

// Open reads the file, which need not be there. One that is damaged is an error: who
// may register is nothing to guess.
func Open(path string) (*Store, error) {
	s := &Store{path: path}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("enrolled agents: %w", err)
	}
	if err := s.parse(data); err != nil {
		return nil, fmt.Errorf("enrolled agents: %s: %w (mend it, or remove it: agents then have to join again)", path, err)
	}
	return s, nil
}

func (s *Store) parse(data []byte) error {
	var d document
	md, err := toml.Decode(string(data), &d)
	if err != nil {
		return err
	}
	if more := md.Undecoded(); len(more) > 0 {
		return fmt.Errorf("key %s is unknown", more[0])
	}
	for _, r := range d.Agents {
		a, err := r.agent()
		if err != nil {
			return fmt.Errorf("agent %q: %w", r.Name, err)
		}
		if len(a.Keys) == 0 || slices.ContainsFunc(s.agents, func(o auth.Agent) bool { return o.Name == a.Name || slices.Contains(o.Keys, a.Keys[0]) }) {
			return fmt.Errorf("agent %q has no key, or its name or key is another's, too", r.Name)
		}
		s.agents = append(s.agents, a)
	}
	for _, r := range d.Tokens {
		a, err := r.Agent.agent()
		hash, err2 := hex.DecodeString(r.Hash)
		if err = errors.Join(err, err2); err != nil || len(hash) != len(auth.SecretHash{}) {
			return fmt.Errorf("token of agent %q is damaged: %v", r.Agent.Name, err)
		}
		s.tokens = append(s.tokens, Token{a, auth.SecretHash(hash), r.Expires})
	}
	return nil
}

func (r *rawAgent) agent() (a auth.Agent, err error) {
	a = auth.Agent{Name: r.Name, Services: r.Services, MaxWeight: r.MaxWeight, MaxNames: r.MaxNames}
	if !protocol.ValidName(a.Name) || a.MaxWeight > protocol.MaxWeight || a.MaxNames < 1 {
		return a, fmt.Errorf("its name, max_weight or max_names cannot be (%d, %d)", a.MaxWeight, a.MaxNames)
	}
	for _, text := range r.Keys {
		k, err := auth.ParsePublicKey(text)
		if err != nil {
			return a, err
		}
		a.Keys = append(a.Keys, k)
	}
	for _, text := range r.Allow {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return a, err
		}
		a.Allow = append(a.Allow, p)
	}
	return a, nil
}

func rawOf(a *auth.Agent) rawAgent {
	r := rawAgent{Name: a.Name, Services: a.Services, MaxWeight: a.MaxWeight, MaxNames: a.MaxNames}
	for _, k := range a.Keys {
		r.Keys = append(r.Keys, k.String())
	}
	for _, p := range a.Allow {
		r.Allow = append(r.Allow, p.String())
	}
	return r
}

// Agents returns those that have joined.
func (s *Store) Agents() []auth.Agent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.agents)
}

// Tokens returns those that are out and have not expired.
func (s *Store) Tokens(now time.Time) []Token {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(now)
	return slices.Clone(s.tokens)
}

// Waiting reports whether a token is out: then an agent may come that nobody knows.
func (s *Store) Waiting(now time.Time) bool { return len(s.Tokens(now)) > 0 }

func (s *Store) expire(now time.Time) {
	s.tokens = slices.DeleteFunc(s.tokens, func(t Token) bool { return !now.Before(t.Expires) })
}

// Create lets a token out. Another one of the same agent is void from now on.
func (s *Store) Create(t Token, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(now)
	tokens := slices.DeleteFunc(slices.Clone(s.tokens), func(o Token) bool { return o.Agent.Name == t.Agent.Name })
	if len(tokens) >= maxTokens {
		return fmt.Errorf("%d tokens are out, as many as may be (wait until some expire)", len(tokens))
	}
	return s.change(s.agents, append(tokens, t))
}

// ErrToken is why nobody may join by a secret: nothing is said of whether there was
// such a token.
var ErrToken = errors.New("token is not known here: it was used, has expired, or is another balancer's (caplancectl token create makes another)")

// Redeem enrols a key as the agent of a token, which is void afterwards, also if the
// file cannot be written.
func (s *Store) Redeem(secret []byte, key auth.PublicKey, now time.Time) (a auth.Agent, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(now)
	hash := auth.HashSecret(secret)
	at := slices.IndexFunc(s.tokens, func(t Token) bool { return subtle.ConstantTimeCompare(t.Hash[:], hash[:]) == 1 })
	if at < 0 {
		return a, ErrToken
	}
	a = s.tokens[at].Agent
	a.Keys = []auth.PublicKey{key}
	s.tokens = slices.Delete(s.tokens, at, at+1)
	if other := auth.FindKey(s.agents, key); other != nil && other.Name != a.Name {
		err := fmt.Errorf("key is agent %s's already: each machine has its own (caplance keygen)", other.Name)
		return a, errors.Join(err, s.change(s.agents, s.tokens))
	}
	agents := slices.DeleteFunc(slices.Clone(s.agents), func(o auth.Agent) bool { return o.Name == a.Name })
	return a, s.change(append(agents, a), s.tokens)
}

// Remove forgets an agent, or a token that is out for it, and reports whether there
// was one.
func (s *Store) Remove(name string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	agents := slices.DeleteFunc(slices.Clone(s.agents), func(a auth.Agent) bool { return a.Name == name })
	tokens := slices.DeleteFunc(slices.Clone(s.tokens), func(t Token) bool { return t.Agent.Name == name })
	if len(agents) == len(s.agents) && len(tokens) == len(s.tokens) {
		return false, nil
	}
	return true, s.change(agents, tokens)
}

// change writes the file, and then holds. The lock is held.
func (s *Store) change(agents []auth.Agent, tokens []Token) error {
	var d document
	for i := range agents {
		d.Agents = append(d.Agents, rawOf(&agents[i]))
	}
	for i := range tokens {
		d.Tokens = append(d.Tokens, rawToken{rawOf(&tokens[i].Agent), hex.EncodeToString(tokens[i].Hash[:]), tokens[i].Expires.UTC()})
	}
	var b bytes.Buffer
	b.WriteString("# Agents that joined by a token (caplance join), and tokens that are out. The balancer\n# writes this file; caplancectl agent remove NAME takes one out.\n\n")
	if err := toml.NewEncoder(&b).Encode(d); err != nil {
		return fmt.Errorf("enrolled agents: %w", err)
	}
	if err := write(s.path, b.Bytes()); err != nil {
		return fmt.Errorf("enrolled agents: %w", err)
	}
	s.agents, s.tokens = agents, tokens
	return nil
}

// write leaves the old file or the new one, whenever the machine stops.
func write(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	part := path + ".part"
	if err := os.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	out, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = out.Write(data)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return errors.Join(err, os.Remove(part))
	}
	if err := os.Rename(part, path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
