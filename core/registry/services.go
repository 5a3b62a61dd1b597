package registry

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/protocol"
)

// service carries out SERVICE: those that are down get no new flows here, the others
// go on.
func (s *session) service(ctx context.Context, req protocol.Request) (answer, error) {
	known := s.r.settings.Load().Services
	names := slices.DeleteFunc(slices.Clone(req.Services), func(name string) bool {
		return !req.Up && name != protocol.Whole && !slices.Contains(known, name) // gone meanwhile
	})
	turned, err := s.r.leases.service(ctx, s, names, req)
	if err != nil {
		return answer{}, err
	}
	if len(turned) > 0 {
		s.tellServices(strings.Join(turned, ","), req)
	}
	s.throttleServices(ctx, turned)
	return answer{line: strings.Join(strings.Fields(string(protocol.Service)+" "+strings.Join(req.Services, ",")+" "+upDown(req.Up)), " ")}, nil
}

func upDown(up bool) string {
	if up {
		return "up"
	}
	return "down"
}

// service notes how services do, and returns those that turned. Another reason why one
// stays down is published at once, unless there are many: then with the next change, or
// HEALTH.
func (l *leases) service(ctx context.Context, s *session, names []string, req protocol.Request) (turned []string, err error) {
	_, _, err = l.change(ctx, func() (bool, error) {
		e := l.held(s)
		if e == nil {
			return false, nil
		}
		for _, name := range names {
			why, down := e.down[name]
			if down == req.Up {
				turned = append(turned, name)
			}
			e.restated = e.restated || down && !req.Up && why != req.Reason
			e.note(name, req)
		}
		e.refresh()
		changed := len(turned) > 0 || e.restated && s.reasons.take(time.Now(), l.settings.Load().Limits.Changes)
		e.restated = e.restated && !changed
		return changed, nil
	})
	return turned, err
}

// note notes how one service does.
func (e *entry) note(name string, req protocol.Request) {
	if req.Up {
		delete(e.down, name)
	} else {
		if e.down == nil {
			e.down = map[string]string{}
		}
		e.down[name] = req.Reason
	}
	e.backend.Down = nil // a new slice: others have the old one
	for _, service := range slices.Sorted(maps.Keys(e.down)) {
		if service != protocol.Whole {
			e.backend.Down = append(e.backend.Down, core.Down{Service: service, Why: e.down[service]})
		}
	}
}

// tellServices logs how services turned. Each has its own line, whatever else turns at
// the same time: its reason is another one.
func (s *session) tellServices(names string, req protocol.Request) {
	from, about := s.peer.Addr(), s.name+" "+names
	switch {
	case req.Up:
		s.r.known.info(from, about, "service works again at backend", "backend", s.name, "service", names)
	default:
		s.r.known.warn(from, about, "service down at backend: no new flows", "backend", s.name, "service", names, "why", req.Reason)
	}
}
