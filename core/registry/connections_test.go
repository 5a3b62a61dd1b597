package registry

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caplance/caplance/core/protocol"
)

// tell registers an agent that tells of its connections and returns its session
// and its token.
func (w *testbed) tell(name, addr string) (p *peer, token string) {
	w.t.Helper()
	p = w.connect()
	p.send("REGISTER " + name + " " + addr + " v=2 connections=yes")
	p.send("SANE " + w.nonce(addr))
	line, err := p.ReadLine()
	reply, _ := protocol.ParseReply(line)
	if token = reply.Options["connections"]; err != nil || token == "" {
		w.t.Fatalf("%q, %v: no token", line, err)
	}
	synctest.Wait()
	return p, token
}

// ended returns whether the balancer has hung up.
func (p *peer) ended() bool {
	p.SetTimeouts(time.Second, time.Second)
	_, _, err := p.ReadFrame(nil)
	return err != nil && !strings.Contains(err.Error(), "timeout")
}

func TestStreamEndsWithItsSession(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		session, token := w.tell("web1", "10.0.0.11")
		stream := w.connect()
		stream.ask("CONNECTIONS web1 "+token, "CONNECTIONS web1")
		newer := w.connect()
		newer.ask("CONNECTIONS web1 "+token, "CONNECTIONS web1")
		if !stream.ended() {
			t.Error("an older stream stayed beside a newer one")
		}
		session.hangUp()
		if !newer.ended() {
			t.Error("the stream outlived its session")
		}
		if w.r.Ask("web1", nil) {
			t.Error("asked without a stream")
		}
		late := w.connect()
		late.ask("CONNECTIONS web1 "+token, "INVALID token is not that")
		late.hangUp()
		newer.hangUp()
		stream.hangUp()
	})
}

// A stream that never pauses is read as fast as the limit says: nothing of it is lost.
func TestRecordsLimit(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		set := testSettings()
		set.Limits.Records = 1000
		w.r.Update(set)
		_, token := w.tell("web1", "10.0.0.11")
		stream := w.connect()
		stream.ask("CONNECTIONS web1 "+token, "CONNECTIONS web1")
		began := time.Now()
		ended := make([]protocol.Report, 12)
		frames := protocol.AppendFrames(nil, protocol.EndedFrame, ended) // 20 each, with the frame's own
		for range 1000 {
			if err := stream.WriteFrames(frames); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		within(t, "1000 frames read", time.Since(began), 15*time.Second, 17*time.Second) // 1000 records a second after the first 4000
		counted := map[string]uint64{}
		w.r.AddTo(counted)
		if counted["registry_records_delayed"] < 5000 {
			t.Errorf("%v", counted)
		}
	})
}

// The end of a stream changes nothing for its backend.
func TestSessionOutlivesItsStream(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		session, token := w.tell("web1", "10.0.0.11")
		session.ask("HEALTH 200", "HEALTHACK 200 state=active")
		for range 3 {
			stream := w.connect()
			stream.ask("CONNECTIONS web1 "+token, "CONNECTIONS web1")
			if err := stream.WriteFrames([]byte{0xff, 0xff, 1, 0}); err != nil {
				t.Fatal(err)
			}
			if !stream.ended() {
				t.Error("a malformed frame did not end the stream")
			}
			stream.hangUp()
		}
		if got := w.seen(); got != "web1 active" {
			t.Errorf("pool is %q", got)
		}
		session.hangUp()
	})
}

// An agent that does not read is asked no more, and holds up nobody.
func TestAgentThatDoesNotRead(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		session, token := w.tell("web1", "10.0.0.11")
		stream := w.connect()
		stream.ask("CONNECTIONS web1 "+token, "CONNECTIONS web1")
		asked := 0
		for w.r.Ask("web1", make([]protocol.Report, 1)) && asked < 1000 {
			asked++
		}
		if asked < maxQuestions || asked > maxQuestions+1 {
			t.Errorf("%d frames wait, want %d", asked, maxQuestions)
		}
		time.Sleep(time.Minute) // the write times out
		if w.r.Ask("web1", nil) {
			t.Error("the stream is still there")
		}
		stream.hangUp()
		session.hangUp()
	})
}

// Who reads no REGISTERED of another's session has no token of it, and one that
// has registered does not turn into a stream.
func TestStreamNeedsItsToken(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		session, token := w.tell("web1", "10.0.0.11")
		other, _ := w.tell("web2", "10.0.0.12")
		other.ask("CONNECTIONS web1 "+token, "INVALID CONNECTIONS opens a connection of its own")
		stranger := w.connect()
		stranger.ask("CONNECTIONS web2 "+token, "INVALID token")
		stranger.ask("CONNECTIONS web3 "+token, "INVALID token")
		plain := w.join("web4", "10.0.0.14", "")
		stranger.hangUp()
		stranger = w.connect()
		stranger.ask("CONNECTIONS web4 ", "INVALID CONNECTIONS takes")
		for _, p := range []*peer{session, other, stranger, plain} {
			p.hangUp()
		}
	})
}
