package registry

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/protocol"
)

// Connections takes what agents tell of their TCP connections.
type Connections interface {
	// Told takes a frame of the named backend, whose stream waits for it. The
	// reports are not used by others afterwards.
	Told(backend string, kind protocol.FrameKind, reports []protocol.Report)
}

// maxQuestions frames of questions wait for an agent that does not read; more
// are not asked.
const maxQuestions = 16

// stream is the second connection of a session.
type stream struct {
	conn      *session
	questions chan []byte // frames
}

// streams are those that there are.
type streams struct {
	mu     sync.Mutex
	owners map[string]*session // registered sessions whose agents may open one, by the backend's name
	open   map[string]*stream
}

// offer lets a session's agent open a stream.
func (t *streams) offer(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.owners[s.name] = s
}

// end takes back the offer of a session that ends, and closes its stream.
func (t *streams) end(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.owners[s.name] != s {
		return
	}
	delete(t.owners, s.name)
	if st := t.open[s.name]; st != nil {
		st.conn.comm.Close()
	}
}

// attach makes a connection the stream of the session that its line proves to
// belong to. An earlier stream of the same session ends.
func (t *streams) attach(s *session, req protocol.Request) (*stream, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	owner := t.owners[req.Name]
	if owner == nil || owner.peer.Addr() != s.peer.Addr() || !auth.Same(owner.id.Load(), s.id.Load()) || subtle.ConstantTimeCompare([]byte(owner.token), []byte(req.Nonce)) == 0 {
		return nil, errors.New("token is not that of a session of this name and address")
	}
	if old := t.open[req.Name]; old != nil {
		old.conn.comm.Close()
	}
	st := &stream{s, make(chan []byte, maxQuestions)}
	t.open[req.Name] = st
	return st, nil
}

func (t *streams) detach(name string, st *stream) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open[name] == st {
		delete(t.open, name)
	}
}

// Ask sends a backend's agent questions about connections. It does not block,
// and reports false when they cannot be asked now.
func (r *Registry) Ask(backend string, about []protocol.Report) bool {
	return r.streams.send(backend, protocol.AppendFrames(nil, protocol.QuestionFrame, about))
}

// AskCount asks it how many connections it has, as Ask does.
func (r *Registry) AskCount(backend string) bool {
	return r.streams.send(backend, protocol.AppendFrames(nil, protocol.CensusFrame, nil))
}

func (t *streams) send(backend string, frames []byte) bool {
	t.mu.Lock()
	st := t.open[backend]
	t.mu.Unlock()
	if st == nil {
		return false
	}
	select {
	case st.questions <- frames:
		return true
	default:
		return false
	}
}

// connections answers CONNECTIONS; the connection carries frames from then on.
func (s *session) connections(req protocol.Request) (answer, error) {
	if s.name != "" || s.nonce != "" {
		return answer{}, fmt.Errorf("CONNECTIONS opens a connection of its own")
	}
	st, err := s.r.streams.attach(s, req)
	if err != nil {
		return answer{}, err
	}
	s.stream, s.of = st, req.Name
	s.lease.Store(int32(streaming))
	s.retime()
	s.expiry.Stop()
	s.r.conns.registered(s)
	return answer{line: string(protocol.Connections) + " " + req.Name}, nil
}

// frameCost is what a frame costs beside its records, in records: a system call.
const frameCost = 8

// talk serves a stream until it breaks, which harms nobody: questions stay
// unanswered until the agent opens another one.
func (s *session) talk(ctx context.Context) error {
	defer s.r.streams.detach(s.of, s.stream)
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	asking.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case q := <-s.stream.questions:
				if s.comm.WriteFrames(q) != nil {
					s.comm.Close()
					return
				}
			}
		}
	})
	defer asking.Wait()
	defer cancel()
	var taken bucket
	for {
		kind, reports, err := s.comm.ReadFrame(nil)
		if err != nil {
			return err
		}
		if d := taken.takeAll(frameCost+len(reports), time.Now(), s.r.settings.Load().Limits.Records); d > 0 {
			s.r.counted.records.Add(uint64(len(reports)))
			sleep(ctx, d)
		}
		if len(reports) > 0 || kind == protocol.LostFrame || kind == protocol.CountFrame {
			s.r.cfg.Connections.Told(s.of, kind, reports)
		}
	}
}
