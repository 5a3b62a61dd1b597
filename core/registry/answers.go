package registry

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/protocol"
)

// answer is a line to an agent, and what of its offer is added when the line is
// written.
type answer struct {
	line string
	tell part
}

// part is a part of an offer.
type part uint8

const (
	nothing part = iota
	news         // what has changed since the last offer
	everything
)

// terms is an Offer in the protocol's words: the options vips, mtu, mode,
// balancers, lease and serves.
type terms [6]struct{ key, value string }

func (o Offer) terms(lease time.Duration) (t terms) {
	mtu, mode := "", core.ModeTunnel
	if o.MTU > 0 {
		mtu = strconv.Itoa(o.MTU)
	}
	if o.Direct && o.MTU > 0 {
		mode = core.ModeDirect
	}
	t[0].key, t[0].value = "vips", joinAddrs(o.VIPs)
	t[1].key, t[1].value = "mtu", mtu
	t[2].key, t[2].value = "mode", mode.String()
	t[3].key, t[3].value = "balancers", joinAddrs(o.Balancers)
	t[4].key, t[4].value = "lease", strconv.FormatInt(lease.Milliseconds(), 10)
	t[5].key, t[5].value = "serves", protocol.FormatServing(o.Services)
	return t
}

// all returns the options that are not empty.
func (t terms) all() (options string) {
	for _, o := range t {
		if o.value != "" && o.value != core.ModeTunnel.String() {
			options += " " + o.key + "=" + o.value
		}
	}
	return options
}

// since returns the options that differ from earlier ones.
func (t terms) since(old terms) (options string) {
	for i, o := range t {
		if o != old[i] {
			options += " " + o.key + "=" + o.value
		}
	}
	return options
}

// registered answers SANE and an update: the plain words for a first-generation
// agent, and what the others then set up.
func (s *session) registered() answer {
	line := fmt.Sprintf("%s %s %s", protocol.Registered, s.name, s.addr)
	if s.req.Version < 2 {
		return answer{line, nothing}
	}
	return answer{line, everything}
}

// healthAck answers HEALTH. What was sent to a v=2 agent before and has changed
// since is repeated.
func (s *session) healthAck() answer {
	line := string(protocol.HealthAck) + " 200"
	if s.req.Version < 2 {
		return answer{line, nothing}
	}
	b, state := s.r.leases.status(s)
	return answer{fmt.Sprintf("%s state=%s active=%d", line, state, s.flows(b, time.Now())) + s.r.told(s.name), news}
}

// flows returns how many a backend has: now while it drains, when they are waited for;
// else some seconds ago. To count those of a thousand services takes milliseconds.
func (s *session) flows(b core.Backend, now time.Time) int {
	if b.State == core.Draining || now.Sub(s.counted) >= offerAge {
		s.active, s.counted = s.r.cfg.Active(b), now
	}
	return s.active
}

func joinAddrs(addrs []netip.Addr) string {
	words := make([]string, len(addrs))
	for i, a := range addrs {
		words[i] = a.String()
	}
	return strings.Join(words, ",")
}
