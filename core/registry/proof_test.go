package registry

import (
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/core/protocol"
)

// What is wrong with a path follows from which datagrams of its rounds arrive, one a
// second: s is the small one, l the long one too, - none, . is a HEALTH too soon.
func TestProofs(t *testing.T) {
	for _, tt := range []struct {
		rounds              string
		unreachable, narrow bool
	}{
		{"", false, false},
		{"l", false, false},
		{"ss", false, true},
		{"sl", false, false},
		{"s-l", false, false},
		{"ssl", false, false},
		{"l-", false, false},
		{"l--", true, false},
		{"l--s", false, false},
		{"l-s-s-s-s", false, false},
		{"lllllllllls", false, false}, // the eleventh has a long one, which is sent again
		{"llllllllllss", false, true},
		{"llllllllllsl", false, false},
		{"l......", false, false},
	} {
		t.Run(tt.rounds, func(t *testing.T) {
			p, now := &proofs{length: 1472}, time.Unix(1000, 0)
			const due = 500 * time.Millisecond
			for _, c := range tt.rounds {
				if c == '.' {
					p.judge(now.Add(time.Millisecond), due)
					continue
				}
				r := p.next(now)
				echoes := []protocol.Echo{{Nonce: "of another"}}
				if c != '-' {
					echoes = append(echoes, protocol.Echo{Nonce: r.small, Held: 999 * time.Millisecond})
				}
				if c == 'l' && r.long != "" {
					echoes = append(echoes, protocol.Echo{Nonce: r.long, Held: 998 * time.Millisecond})
				}
				now = now.Add(time.Second)
				rtt := p.hear(echoes, now)
				if want := c != '-'; want != (rtt == time.Millisecond) {
					t.Errorf("the path takes %v", rtt)
				}
				p.judge(now, due)
			}
			if unreachable, narrow := p.path(); (unreachable != "") != tt.unreachable || (narrow != "") != tt.narrow {
				t.Errorf("%q, %q", unreachable, narrow)
			}
			if len(p.rounds) > maxProofs {
				t.Errorf("%d rounds are kept", len(p.rounds))
			}
		})
	}
}

// A late echo counts, an invented one does not, and the long datagram has the length
// of the longest tunnelled packet.
func TestProofDatagrams(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		w.mu.Lock()
		w.offer.TunnelMTU = 1400
		w.mu.Unlock()
		p := w.connect()
		p.send("REGISTER web1 10.0.0.11 v=2 proofs=yes")
		p.send("SANE " + w.nonce("10.0.0.11"))
		if _, err := p.ReadLine(); err != nil {
			t.Fatal(err)
		}
		p.ask("HEALTH 200", "HEALTHACK 200 state=active active=0")
		w.mu.Lock()
		sent := w.datagrams[len(w.datagrams)-2:]
		w.mu.Unlock()
		small, _ := strings.CutPrefix(sent[0], "10.0.0.11 PROOF ")
		long, ok := strings.CutPrefix(sent[1], "10.0.0.11 ")
		if !ok || len(long) != 1400 || len(small) != 32 {
			t.Fatalf("small %q, long %d bytes", small, len(long))
		}
		time.Sleep(time.Second)
		p.ask("HEALTH 200 proof=00112233:5", "HEALTHACK 200 state=active active=0") // missed
		time.Sleep(time.Second)
		p.ask("HEALTH 200 proof="+small+":100", "HEALTHACK 200 state=active active=0") // late
		if rtt := w.backend("web1").Vitals.RTT(); rtt < 1900*time.Millisecond {
			t.Errorf("the path takes %v", rtt)
		}
		p.ask("HEALTH 200 proof=x", `INVALID proof "x" is not up to 8 of NONCE:MICROSECONDS`)
	})
}
