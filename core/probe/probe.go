// Package probe finds out whether the services of a backend work: it asks the kernel
// who listens, connects, asks by HTTP or DNS, or runs a script of the operator's,
// against the VIP itself, which the backend has on lo.
//
//	r := probe.New(log)
//	go r.Run(ctx)
//	r.Set(specs, targets) // at any time
//	<-r.Changed()
//	down := r.Down()
package probe

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/caplance/caplance/core"
)

// Kind is how something is checked.
type Kind string

// The kinds.
const (
	Listen Kind = "listen" // a socket listens there (sock_diag(7)); nothing is sent
	TCP    Kind = "tcp"    // it can be connected to
	HTTP   Kind = "http"   // GET is answered by one of some statuses, and a text
	HTTPS  Kind = "https"
	Script Kind = "script" // a command ends with exit code 0
	DNS    Kind = "dns"    // a question of type A is answered without an error (RFC 1035)
	UDP    Kind = "udp"    // an empty datagram is not refused (by ICMP); nobody need answer
	None   Kind = "none"   // always up
)

// Kinds are all of them.
var Kinds = []Kind{Listen, TCP, HTTP, HTTPS, Script, DNS, UDP, None}

// Spec is one check.
type Spec struct {
	// Service is whose check it is; "": of every service that has none of its own, Whole:
	// of the backend.
	Service string
	Backend string // whose it is, where one process checks several; "": this machine
	Kind    Kind
	Address string // host:port; "": the VIP, and its service's first port

	Path, Host   string // of HTTP and HTTPS: the request's path, and its Host header and TLS name
	Status       Status // HTTP and HTTPS: the statuses that are well
	Body         string // HTTP and HTTPS: what the first 64 KB must contain
	Command      []string
	Query        string // DNS: a name
	Interval     time.Duration
	Timeout      time.Duration
	Rise, Fall   int // results in a row that turn it up and down
	VerifyServer bool
}

// String returns what the check does, for those who compare two.
func (s *Spec) String() string {
	words := []string{string(s.Kind)}
	add := func(key, value string) {
		if value != "" {
			words = append(words, fmt.Sprintf("%s %q", key, value))
		}
	}
	add("address", s.Address)
	if s.Kind == HTTP || s.Kind == HTTPS {
		add("path", s.Path)
		add("host", s.Host)
		add("status", fmt.Sprintf("%d-%d", s.Status.First, s.Status.Last))
		add("body", s.Body)
	}
	if s.VerifyServer {
		words = append(words, "verify")
	}
	add("command", strings.Join(s.Command, " "))
	add("query", s.Query)
	return strings.Join(append(words, fmt.Sprintf("every %s, at most %s, rise %d, fall %d", s.Interval, s.Timeout, s.Rise, s.Fall)), ", ")
}

// whole reports whether the check is of the backend as a whole.
func (s *Spec) whole() bool { return s.Service == Whole }

// Default is the check of services for which there is none.
func Default() Spec {
	return Spec{Kind: Listen, Interval: time.Second, Timeout: time.Second, Rise: 1, Fall: 1}
}

// Status is a range of HTTP statuses.
type Status struct{ First, Last int }

// ParseStatus reads "200" or "200-399".
func ParseStatus(s string) (Status, error) {
	first, last, ok := strings.Cut(s, "-")
	if !ok {
		last = first
	}
	a, err := strconv.Atoi(first)
	b, err2 := strconv.Atoi(last)
	if err != nil || err2 != nil || a < 100 || b > 599 || a > b {
		return Status{}, fmt.Errorf("%q is not a status or a range of them (like \"200\" or \"200-399\")", s)
	}
	return Status{a, b}, nil
}

// Target is a service that the backend serves.
type Target struct {
	Service string
	Backend string // as in Spec
	VIP     netip.Addr
	Addr    netip.Addr // of the backend; invalid: it is asked at the VIP
	Ports   []core.PortRange
	Protos  []uint8
}

// Key returns what Down calls a service at a backend.
func Key(backend, service string) string {
	if backend == "" {
		return service
	}
	return backend + " " + service // no name has a space
}

// Whole stands for all services: no service has that name.
const Whole = "*"

// Unchecked is why a service is down that has no result yet.
const Unchecked = "not checked yet"

// maxReason is how long a reason is, bytes.
const maxReason = 160

// reason makes an error a line for others to read. The port that a check came from is
// left out: it is another one each time, and each other reason is news for the balancer.
func reason(err error) string {
	text := err.Error()
	var op *net.OpError
	if errors.As(err, &op) && op.Source != nil {
		from := *op
		from.Source = nil
		text = strings.Replace(text, op.Error(), from.Error(), 1)
	}
	s := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "") + "…"
	}
	return strings.Join(strings.Fields(s), " ")
}

// maxPorts of a service are looked at.
const maxPorts = 16

// firsts returns the first port of each range, none where the service has all.
func (t *Target) firsts() (out []uint16) {
	for _, r := range t.Ports {
		if r == core.AllPorts {
			return nil
		}
		if len(out) < maxPorts {
			out = append(out, r.First)
		}
	}
	return out
}
