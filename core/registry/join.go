package registry

import (
	"errors"
	"fmt"
	"time"

	"github.com/caplance/caplance/core/protocol"
)

// joinTime is how long one that wants to join may take for its line.
const joinTime = 5 * time.Second

func (r *Registry) joinable() bool { return r.cfg.Joinable != nil && r.cfg.Joinable() }

// join takes the one line of a peer whose key is anybody's, and enrols the key if the
// line has a token's secret. Then it hangs up: the agent comes back as who it is now.
func (s *session) join() {
	defer s.comm.Close()
	s.comm.SetTimeouts(joinTime, joinTime)
	line, err := s.comm.ReadLine()
	if err != nil {
		s.r.quiet.warn(s.peer.Addr(), "", "peer did not join", "peer", s.peer, "err", err)
		return
	}
	name, err := s.enrol(line)
	if err != nil {
		s.r.quiet.warn(s.peer.Addr(), "", "peer may not join", "peer", s.peer, "key", s.id.Load().String(), "err", err)
		s.write(protocol.Refuse(err))
		return
	}
	s.log.Info("agent joined by a token", "agent", name, "key", s.id.Load().String())
	s.write(fmt.Sprintf("%s %s", protocol.Joined, name))
}

func (s *session) enrol(line string) (name string, err error) {
	req, err := protocol.Parse(line)
	switch {
	case err != nil:
		return "", err
	case req.Verb != protocol.Join:
		return "", fmt.Errorf("%s before JOIN", req.Verb)
	case !s.r.joinable(): // since the handshake
		return "", errors.New("no token is out")
	}
	return s.r.cfg.Join(req.Secret, s.id.Load().Key)
}
