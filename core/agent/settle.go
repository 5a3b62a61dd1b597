package agent

import (
	"context"
	"strconv"
	"time"

	"github.com/caplance/caplance/core/protocol"
)

// setting is an offer on its way into the machine.
type setting struct {
	number uint64 // the balancer's, 0: it does not number them
	cancel context.CancelFunc
	done   chan struct{} // closed when every target has it
}

// settle makes the machine serve the offer and does not wait for it: the session
// goes on, and reports with HEALTH when it is done. A newer offer takes the
// place of an older one.
func (s *session) settle(to served) {
	if s.setting != nil {
		s.setting.cancel()
	}
	ctx, cancel := context.WithCancel(s.ctx)
	set := &setting{s.offer.number, cancel, make(chan struct{})}
	s.setting = set
	revision := s.a.store.serve(to)
	s.settling.Go(func() {
		if s.a.loop.Wait(ctx, revision) == nil {
			close(set.done)
		}
	})
}

// settled returns a channel that is closed when the offer is set up; nil when
// none is on its way.
func (s *session) settled() <-chan struct{} {
	if s.setting == nil {
		return nil
	}
	return s.setting.done
}

// finish reports that packets may come, once what they are for is checked.
func (s *session) finish() error {
	s.setting.cancel()
	s.ready, s.fit, s.setting = s.setting.number, true, nil
	s.a.log.Debug("machine serves the offer", "vips", few(s.offer.vips), "offer", s.ready)
	s.checkServices()
	s.unreported = time.After(firstResults)
	return s.found()
}

const (
	// offerEvery is how much time one OFFER takes of the balancer's, and offersAhead how
	// much it may take before: 20 at once, and then five a second.
	offerEvery  = 200 * time.Millisecond
	offersAhead = 4 * time.Second
)

// offered takes an OFFER, which comes unasked. The HEALTH that answers it is
// sent once it is set up. Those that come too fast wait, unread: each changes the
// machine and has a line in the log.
func (s *session) offered(reply protocol.Reply) error {
	if s.stopping || !s.registered {
		return nil
	}
	if d := s.paceOffer(time.Now()); d > 0 {
		sleep(s.ctx, d, nil)
	}
	return s.change(reply)
}

// paceOffer returns how long an OFFER has to wait.
func (s *session) paceOffer(now time.Time) time.Duration {
	if earliest := now.Add(-offersAhead); s.offersUntil.Before(earliest) {
		s.offersUntil = earliest
	}
	s.offersUntil = s.offersUntil.Add(offerEvery)
	return s.offersUntil.Sub(now)
}

// change takes what of the offer an answer changes.
func (s *session) change(reply protocol.Reply) error {
	if err := s.accept(s.offer, reply); err != nil {
		return err
	}
	s.a.log.Info("balancer changed its offer", "vips", few(s.offer.vips), "mtu", s.offer.mtu, "direct", s.offer.direct, "balancers", few(s.offer.balancers))
	return nil
}

// offerNumber returns the number of the offer in an answer, or the one before.
func offerNumber(options map[string]string, before uint64) uint64 {
	if n, err := strconv.ParseUint(options["offer"], 10, 64); err == nil {
		return n
	}
	return before
}
