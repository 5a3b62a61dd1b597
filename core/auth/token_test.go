package auth

import (
	"net"
	"strings"
	"testing"
)

func TestToken(t *testing.T) {
	key := NewKeyPair().Public()
	for _, server := range []string{"10.0.0.1:1338", "[fd00::1]:1338", "lb.example.com:1338"} {
		token := NewToken(server, key)
		again, err := ParseToken(" " + token.String() + "\n")
		if err != nil || again != token {
			t.Errorf("%+v became %+v, %v", token, again, err)
		}
	}
	if a, b := NewToken("x:1", key), NewToken("x:1", key); a.Secret == b.Secret || HashSecret(a.Secret[:]) == HashSecret(b.Secret[:]) {
		t.Error("two tokens have one secret")
	}
	good := NewToken("10.0.0.1:1338", key).String()
	for _, bad := range []string{
		"", "caplance1-", good[:40], strings.TrimPrefix(good, tokenPrefix), good + "=", good + "!", NewToken("nowhere", key).String(),
		NewToken(strings.Repeat("x", 300)+":1", key).String(),
	} {
		if _, err := ParseToken(bad); err == nil || strings.Contains(err.Error(), good) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// A token that was cut or mistyped is no other balancer's.
func TestDamagedToken(t *testing.T) {
	good := NewToken("lb.example.com:1338", NewKeyPair().Public()).String()
	for n := len(tokenPrefix) + 70; n < len(good); n++ {
		if _, err := ParseToken(good[:n]); err == nil {
			t.Errorf("%d of %d characters are taken", n, len(good))
		}
	}
	for at := len(tokenPrefix); at < len(good); at++ {
		bad := []byte(good)
		bad[at] = "AB"[map[bool]int{true: 1}[bad[at] == 'A']]
		if _, err := ParseToken(string(bad)); err == nil {
			t.Errorf("taken with character %d changed", at)
		}
	}
}

// BenchmarkHandshake is an agent's connection to a balancer, both ends on one machine.
func BenchmarkHandshake(b *testing.B) {
	agent, balancer := NewKeyPair(), NewKeyPair()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s := Server(c, balancer, only(agent.Public()), never)
			_, _ = s.Prove(b.Context())
			s.Close()
		}
	}()
	for b.Loop() {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		s := Client(c, agent, only(balancer.Public()))
		if _, err := s.Prove(b.Context()); err != nil {
			b.Fatal(err)
		}
		c.(*net.TCPConn).SetLinger(0) // or the ports are used up
		s.Close()
	}
}

func FuzzToken(f *testing.F) {
	f.Add(NewToken("10.0.0.1:1338", PublicKey{1}).String())
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseToken(text)
		if err != nil {
			return
		}
		if again, err := ParseToken(token.String()); err != nil || again != token {
			t.Errorf("%q became %q: %v", text, token, err)
		}
	})
}
