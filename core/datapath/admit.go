package datapath

import (
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/flow"
	"github.com/caplance/caplance/core/packet"
)

// admit reports whether a packet may be the first of a flow, and counts one that may
// not. The kernel's programs have asked the same before an upcall; what they do not read
// comes here unasked, as does all of the type userspace.
func (w *Worker) admit(s *core.Service, p *packet.Packet) bool {
	if !s.Clients.Allows(&p.Key.Src) {
		w.Counts.add(Denied)
		w.views[s.ID].counts.Denied.Add(1)
		return false
	}
	if s.NewFlows > 0 && !w.Limiter.Take(sourceOf(s, &p.Key.Src), s.NewFlows, w.burst(s), w.sinceLimiter()) {
		w.Counts.add(Limited)
		w.views[s.ID].counts.Limited.Add(1)
		return false
	}
	return true
}

// burst returns how many flows a source may begin at once: a second's. The programs
// allow that, too, and what they sent up may have waited.
func (w *Worker) burst(s *core.Service) int {
	if w.snap.Settings.Type == core.Userspace {
		return s.NewFlows
	}
	return 2 * s.NewFlows
}

// sinceLimiter returns the time by the limiter's clock.
func (w *Worker) sinceLimiter() time.Duration {
	return time.Duration(w.nowNS) + w.epoch.Sub(w.Limiter.epoch)
}

// denied reports whether the client of a flow is not taken any more.
func (w *Worker) denied(e *flow.Entry) bool {
	s := w.snap.Services.Get(e.Service)
	return s != nil && !s.Clients.Allows(&e.Key.Src)
}
