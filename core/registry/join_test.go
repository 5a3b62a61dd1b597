package registry

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/caplance/caplance/core/auth"
)

// Who wants to join may say one thing, and gets an answer and the end.
func TestJoin(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		key := auth.NewKeyPair().Public()
		out := true
		w.r.cfg.Joinable = func() bool { return out }
		w.r.cfg.Join = func(secret []byte, k auth.PublicKey) (string, error) {
			if string(secret) != "sesame" || k != key {
				return "", errors.New("token is not known here")
			}
			return "web1", nil
		}
		for _, tt := range []struct {
			line, want string
			out        bool
		}{
			{"JOIN " + fmt.Sprintf("%x", "sesame"), "JOINED web1", true},
			{"JOIN " + fmt.Sprintf("%x", "sesame"), "INVALID no token is out", false},
			{"JOIN " + fmt.Sprintf("%x", "guess"), "INVALID token is not known here", true},
			{"JOIN guess", "INVALID secret is not hexadecimal", true},
			{"REGISTER web1 10.0.0.11", "INVALID REGISTER before JOIN", true},
		} {
			out = tt.out
			p := w.connectAs(func(s *session) {
				s.authenticate = proves(key)
				s.joins = func() bool { return true }
			})
			p.ask(tt.line, tt.want)
			if line, err := p.ReadLine(); err == nil {
				t.Errorf("%s: goes on with %q", tt.line, line)
			}
		}
		p := w.connectAs(func(s *session) {
			s.authenticate = proves(key)
			s.joins = func() bool { return true }
		})
		synctest.Wait()
		w.secure(auth.Agent{Name: "another", Allow: anywhere, MaxNames: 1}) // settings that change are not about it
		p.ask("JOIN "+fmt.Sprintf("%x", "sesame"), "JOINED web1")
		p = w.connectAs(func(s *session) {
			s.authenticate = proves(key)
			s.joins = func() bool { return true }
		})
		if _, err := p.ReadLine(); err == nil { // says nothing
			t.Error("it may wait for ever")
		}
	})
}
