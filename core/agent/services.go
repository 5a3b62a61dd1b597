package agent

import (
	"maps"
	"slices"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/probe"
	"github.com/caplance/caplance/core/protocol"
)

// firstResults is how long HEALTH waits for the first results of new checks: what has
// none by then is down.
const firstResults = time.Second

// checkServices makes the checks follow what the machine serves now. VIPs have to be
// on lo before, or a check of theirs would ask another backend.
func (s *session) checkServices() {
	s.a.targets = s.a.targets[:0:0]
	for _, o := range s.offer.services {
		if s.refused[o.VIP] != "" {
			continue
		}
		s.a.targets = append(s.a.targets, probe.Target{Service: o.Name, VIP: o.VIP, Ports: o.Ports, Protos: o.Protos})
	}
	s.a.prober.Set(s.a.config().Checks, s.a.targets)
	for _, c := range s.a.config().Checks {
		serves := func(o *core.Service) bool { return o.Name == c.Service }
		if c.Service != "" && c.Service != probe.Whole && s.checks && !slices.ContainsFunc(s.offer.services, serves) {
			s.a.log.Warn("check is of a service that this backend does not serve", "service", c.Service)
		}
	}
}

// forgetServices ends the checks of VIPs that go.
func (s *session) forgetServices(vips map[string]bool) {
	kept := slices.DeleteFunc(slices.Clone(s.a.targets), func(t probe.Target) bool { return !vips[t.VIP.String()] })
	if len(kept) < len(s.a.targets) {
		s.a.targets = kept
		s.a.prober.Set(s.a.config().Checks, kept)
	}
}

// down returns why services are down, under probe.Whole the backend.
func (s *session) down() map[string]string {
	down := s.a.prober.Down()
	for _, o := range s.offer.services {
		if why := s.refused[o.VIP]; why != "" {
			down[o.Name] = why
		}
	}
	if why := s.unfit(); why != "" {
		down[probe.Whole] = why
	}
	return down
}

// unfit returns why the machine cannot take packets, "" if it can. One that has served
// an offer is not unfit because of a newer one: other VIPs work, and the balancer
// knows by the number which do.
func (s *session) unfit() string {
	switch {
	case !s.fit:
		return "its VIPs are being set up"
	case s.setting == nil:
		return s.a.failing()
	}
	return ""
}

// tellServices tells the balancer which services turned down and up, each reason
// once.
func (s *session) tellServices() error {
	if !s.registered || !s.fit || !s.checks {
		return nil
	}
	down := s.down()
	by, well := map[string][]string{}, []string{}
	for name, why := range down {
		if was, ok := s.told[name]; !ok || was != why {
			by[why] = append(by[why], name)
		}
	}
	for name := range s.told {
		if _, ok := down[name]; !ok {
			well = append(well, name)
		}
	}
	s.told = down
	for _, why := range slices.Sorted(maps.Keys(by)) {
		if err := s.sendServices(by[why], protocol.Request{Verb: protocol.Service, Reason: why}); err != nil {
			return err
		}
	}
	return s.sendServices(well, protocol.Request{Verb: protocol.Service, Up: true})
}

// maxNames are how many bytes of names are in one line.
const maxNames = 256

// sendServices sends as many lines as the names need; the backend as a whole has one
// of its own.
func (s *session) sendServices(names []string, req protocol.Request) error {
	slices.Sort(names)
	for len(names) > 0 {
		n, size := 1, len(names[0])
		for names[0] != probe.Whole && n < len(names) && size+1+len(names[n]) <= maxNames {
			size += 1 + len(names[n])
			n++
		}
		req.Services, names = names[:n], names[n:]
		if err := s.send(req, protocol.Service, nil); err != nil {
			return err
		}
	}
	return nil
}

// report sends what the checks found, and HEALTH with it.
func (s *session) report() error {
	s.unreported = nil
	return s.heartbeat()
}

// found reports what has turned since the last report.
func (s *session) found() error {
	if s.unreported != nil {
		if slices.Contains(slices.Collect(maps.Values(s.a.prober.Down())), probe.Unchecked) {
			return nil // the others are on their way
		}
		return s.report()
	}
	before := s.sick
	if err := s.tellServices(); err != nil {
		return err
	}
	if _, sick := s.down()[probe.Whole]; sick != before {
		return s.heartbeat()
	}
	return nil
}

// code returns what HEALTH reports: of services SERVICE says it.
func (s *session) code() int {
	_, s.sick = s.down()[probe.Whole]
	if s.sick {
		return unhealthy
	}
	return healthy
}

// The codes of HEALTH.
const (
	healthy   = 200
	unhealthy = 503
)
