package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// errMoved ends what holds by the data IP. Everything that outlives a process
// stays as for a successor: the next data IP's.
var errMoved = errors.New("data IP is no longer this machine's")

// moveAfter is how long a data IP may be gone that nobody has configured: a link
// that is deleted and made again has its address back in a moment.
const moveAfter = 3 * time.Second

// movement notices that the machine has another data IP for good.
type movement struct{ since time.Time }

// check returns an error that wraps errMoved when it has. It is to be called
// again after wait; 0 is at the next change of the network.
func (m *movement) check(s *store, now time.Time) (wait time.Duration, err error) {
	to, ok := s.moved()
	switch {
	case !ok:
		m.since = time.Time{}
		return 0, nil
	case m.since.IsZero():
		m.since = now
	}
	if wait = moveAfter - now.Sub(m.since); wait > 0 {
		return wait, nil
	}
	return 0, fmt.Errorf("%w: %s is gone, the way to the balancer leaves from %s", errMoved, s.dataIP, to)
}

// moved reports whether the data IP, which nobody has configured, is gone and
// another address leads to the balancer.
func (s *store) moved() (to netip.Addr, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.given || !s.session.peer.IsValid() || s.network.Network().Has(s.dataIP) {
		return to, false
	}
	p, err := s.network.Path(s.session.peer)
	return p.Source, err == nil && p.Source.IsValid() && p.Source != s.dataIP
}

// findDataIP returns the configured address or else the one from which the server
// is reached, as soon as there is a route and a name for it; none when ctx ends.
func (a *Agent) findDataIP(ctx context.Context) netip.Addr {
	if a.config().DataIP.IsValid() {
		return a.config().DataIP
	}
	for retry := (backoff{}); ; {
		changed := a.network.Changed()
		addr, err := a.sourceTo(ctx, a.config().Server)
		if err == nil || ctx.Err() != nil {
			return addr
		}
		a.log.Warn("no route to the balancer yet, trying again", "server", a.config().Server, "err", err)
		if !retry.waitOr(ctx, changed) {
			return netip.Addr{}
		}
	}
}

// sourceTo returns the address that packets to host:port leave from.
func (a *Agent) sourceTo(ctx context.Context, server string) (netip.Addr, error) {
	host, _, err := net.SplitHostPort(server)
	if err != nil {
		return netip.Addr{}, err
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, to := range addrs {
		p, routeErr := a.network.Path(to.Unmap())
		if routeErr == nil && p.Source.IsValid() {
			return p.Source, nil
		}
		err = routeErr
	}
	if err == nil {
		err = fmt.Errorf("route to %s has no source address", host)
	}
	return netip.Addr{}, err
}
