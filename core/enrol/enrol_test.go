package enrol

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caplance/caplance/core/auth"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func token(name string) (Token, []byte) {
	t := auth.NewToken("lb:1338", auth.PublicKey{})
	return Token{
		Agent:   auth.Agent{Name: name, Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}, Services: []string{"web"}, MaxWeight: 10, MaxNames: 2},
		Hash:    auth.HashSecret(t.Secret[:]),
		Expires: now.Add(10 * time.Minute),
	}, t.Secret[:]
}

// A token enrols one key, once, before it expires; what has joined outlives the
// process, and so does a token that is out.
func TestRedeem(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lib", "agents.toml")
	s := open(t, path)
	tok, secret := token("web1")
	if err := s.Create(tok, now); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(path); err != nil || strings.Contains(string(data), string(secret)) {
		t.Fatalf("the file has the secret, or is not there: %v", err)
	}
	s = open(t, path)
	if diff := cmp.Diff([]Token{tok}, s.Tokens(now), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("token (-want +got):\n%s", diff)
	}
	key := auth.NewKeyPair().Public()
	if _, err := s.Redeem([]byte("guess"), key, now); !errors.Is(err, ErrToken) {
		t.Errorf("a guess: %v", err)
	}
	if _, err := s.Redeem(secret, key, now.Add(10*time.Minute)); !errors.Is(err, ErrToken) {
		t.Errorf("after it expired: %v", err)
	}
	s = open(t, path)
	a, err := s.Redeem(secret, key, now)
	if err != nil || a.Name != "web1" || a.Keys[0] != key {
		t.Fatalf("%+v, %v", a, err)
	}
	if _, err := s.Redeem(secret, auth.NewKeyPair().Public(), now); !errors.Is(err, ErrToken) {
		t.Errorf("a second time: %v", err)
	}
	s = open(t, path)
	if got := s.Agents(); len(got) != 1 || auth.FindKey(got, key) == nil || got[0].MaxNames != 2 || got[0].Allow[0] != tok.Agent.Allow[0] || s.Waiting(now) {
		t.Errorf("read again: %+v", got)
	}
	again, secret := token("web1") // its machine was made anew
	other := auth.NewKeyPair().Public()
	if err := s.Create(again, now); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Redeem(secret, other, now); err != nil || auth.FindKey(s.Agents(), key) != nil || len(s.Agents()) != 1 {
		t.Errorf("its new key: %v, %+v", err, s.Agents())
	}
	second, secret := token("web2")
	if err := s.Create(second, now); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Redeem(secret, other, now); err == nil || !strings.Contains(err.Error(), "key is agent web1's already") {
		t.Errorf("a key for two: %v", err)
	}
	if open(t, path).Waiting(now) {
		t.Error("its token is out again after a restart")
	}
	if ok, err := s.Remove("web1"); !ok || err != nil || len(open(t, path).Agents()) != 0 {
		t.Errorf("removed: %v, %v", ok, err)
	}
	if ok, err := s.Remove("web1"); ok || err != nil {
		t.Errorf("removed twice: %v, %v", ok, err)
	}
}

// Of many who have the same token one gets in.
func TestRedeemAtOnce(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "agents.toml"))
	tok, secret := token("web1")
	if err := s.Create(tok, now); err != nil {
		t.Fatal(err)
	}
	var in sync.WaitGroup
	won := make(chan auth.PublicKey, 100)
	for range 100 {
		in.Go(func() {
			key := auth.NewKeyPair().Public()
			if _, err := s.Redeem(secret, key, now); err == nil {
				won <- key
			}
		})
	}
	in.Wait()
	if len(won) != 1 || auth.FindKey(s.Agents(), <-won) == nil {
		t.Errorf("%d got in", len(won)+1)
	}
}

// A file that cannot be written enrols nobody, and one that is damaged is no file.
func TestBadFiles(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	for text, want := range map[string]string{
		"x":                                      "expected",
		"more = 1":                               "key more is unknown",
		"[[agent]]\nname = \"a\"\nmax_names = 1": "has no key",
		"[[agent]]\nname = \"a b\"\nmax_names = 1":                                                             "cannot be",
		"[[agent]]\nname = \"a\"\nmax_names = -1":                                                              "cannot be",
		"[[agent]]\nname = \"a\"\nmax_names = 1\nkeys = [\"x\"]":                                               "is not a public key",
		"[[token]]\nhash = \"00\"\nexpires = 2026-01-02T03:04:05Z\n[token.agent]\nname = \"a\"\nmax_names = 1": "token of agent \"a\" is damaged",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(file); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	s := open(t, filepath.Join(dir, "agents"))
	tok, secret := token("web1")
	if err := s.Create(tok, now); err != nil {
		t.Fatal(err)
	}
	s.path = filepath.Join(file, "below a file")
	if _, err := s.Redeem(secret, auth.PublicKey{1}, now); err == nil || len(s.Agents()) != 0 {
		t.Errorf("joined without being written down: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("[[agent]]\nname = \"a\"\nkeys = [\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"]\nmax_weight = 1\nmax_names = 1\n")
	f.Fuzz(func(t *testing.T, text string) { (&Store{}).parse([]byte(text)) })
}
