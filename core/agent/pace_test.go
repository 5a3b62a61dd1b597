package agent

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caplance/caplance/core/protocol"
)

// A balancer that sends OFFER without end is read slowly: each changes the machine and
// has a line in the log.
func TestOffersArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &session{registered: true, ctx: t.Context()}
		reply, err := protocol.ParseReply("OFFER mtu=1 offer=2") // refused, once it has been read
		if err != nil {
			t.Fatal(err)
		}
		took := func(n int) time.Duration {
			began := time.Now()
			for range n {
				if err := s.offered(reply); err == nil {
					t.Fatal("mtu 1 was taken")
				}
			}
			return time.Since(began)
		}
		if d := took(20); d != 0 {
			t.Errorf("20 offers took %s", d)
		}
		if d := took(100); d != 20*time.Second {
			t.Errorf("100 more took %s", d)
		}
		time.Sleep(time.Minute)
		if d := took(20); d != 0 {
			t.Errorf("20 offers took %s a minute later", d)
		}
	})
}

// Whatever lease a balancer tells, HEALTH is not a flood.
func TestInterval(t *testing.T) {
	s := &session{a: new(Agent)}
	for text, want := range map[string]time.Duration{"3000": time.Second, "100": 100 * time.Millisecond / 3, "1": minInterval, "": unleased} {
		options := map[string]string{}
		if text != "" {
			options["lease"] = text
		}
		o, err := offer{}.with(options)
		if err != nil {
			t.Fatal(err)
		}
		if s.offer = o; s.interval() != want {
			t.Errorf("lease %q: %s, want %s", text, s.interval(), want)
		}
	}
	if _, err := (offer{}).with(map[string]string{"lease": fmt.Sprint(1 << 40)}); err == nil {
		t.Error("a lease of 35 years was taken")
	}
}

// A balancer that sends lines, and answers nothing, is given up as a silent one is.
func TestAnswersAreOverdue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := new(Agent)
		a.cfg.Store(&Config{ReadTimeout: 10 * time.Second})
		s := &session{a: a}
		s.awaited = append(s.awaited, request{protocol.HealthAck, nil, time.Now()})
		time.Sleep(unleased + 10*time.Second)
		if err := s.overdue(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Millisecond)
		if err := s.overdue(); err == nil || !strings.Contains(err.Error(), "no HEALTHACK within 15s") {
			t.Error(err)
		}
		s.awaited = nil
		if err := s.overdue(); err != nil {
			t.Error(err)
		}
	})
}
