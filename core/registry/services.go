package registry

import (
	"context"
	"maps"
	"slices"
	"strings"

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
	// Not held up like other changes: a backend of many services has many at once, and
	// what is down should not wait. The limit of lines holds.
	if err := s.r.leases.service(ctx, s, names, req); err != nil {
		return answer{}, err
	}
	return answer{line: strings.Join(strings.Fields(string(protocol.Service)+" "+strings.Join(req.Services, ",")+" "+upDown(req.Up)), " ")}, nil
}

func upDown(up bool) string {
	if up {
		return "up"
	}
	return "down"
}

// service notes how services do.
func (l *leases) service(ctx context.Context, s *session, names []string, req protocol.Request) error {
	var news []string
	_, _, err := l.change(ctx, func() (bool, error) {
		e := l.held(s)
		if e == nil {
			return false, nil
		}
		changed := false
		for _, name := range names {
			why, down := e.down[name]
			if down == req.Up {
				news = append(news, name)
			}
			changed = changed || down == req.Up || down && why != req.Reason
			e.note(name, req)
		}
		if changed {
			e.refresh()
		}
		return changed, nil
	})
	if len(news) > 0 && err == nil {
		s.tellServices(strings.Join(news, ","), req)
	}
	return err
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

func (s *session) tellServices(names string, req protocol.Request) {
	switch {
	case req.Up:
		s.r.quiet.info(s.peer.Addr(), s.name, "service works again at backend", "backend", s.name, "service", names)
	default:
		s.r.quiet.warn(s.peer.Addr(), s.name, "service down at backend: no new flows", "backend", s.name, "service", names, "why", req.Reason)
	}
}
