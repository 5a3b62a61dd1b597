package agent

import (
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/caplance/caplance/core/probe"
	"github.com/caplance/caplance/core/protocol"
)

// rawCheck mirrors a [[check]] of the file.
type rawCheck struct {
	Service  string   `toml:"service"`
	Type     string   `toml:"type"`
	Address  string   `toml:"address"`
	Path     string   `toml:"path"`
	Host     string   `toml:"host"`
	Status   string   `toml:"status"`
	Body     string   `toml:"body"`
	Verify   bool     `toml:"verify"`
	Command  []string `toml:"command"`
	Query    string   `toml:"query"`
	Interval string   `toml:"interval"`
	Timeout  string   `toml:"timeout"`
	Rise     *int64   `toml:"rise"`
	Fall     *int64   `toml:"fall"`
}

// checks validates the [[check]] tables.
func (v *validator) checks(raw []rawCheck) (out []probe.Spec) {
	for i, r := range raw {
		out = append(out, v.check(fmt.Sprintf("check[%d].", i), r))
	}
	return out
}

// check validates one; what is left out has the defaults of its type.
func (v *validator) check(at string, r rawCheck) probe.Spec {
	s := probe.Default()
	s.Service, s.Address, s.Host, s.Body, s.VerifyServer = r.Service, r.Address, r.Host, r.Body, r.Verify
	if r.Service != "" && r.Service != probe.Whole && !protocol.ValidName(r.Service) {
		v.failf(at+"service", "%q is not a service's name, or *", r.Service)
	}
	if r.Type != "" {
		s.Kind = probe.Kind(r.Type)
	}
	if !slices.Contains(probe.Kinds, s.Kind) {
		v.failf(at+"type", "%q is not a type of check (%s)", r.Type, kinds())
		return s
	}
	if s.Kind != probe.Listen {
		s.Interval, s.Rise, s.Fall = 2*time.Second, 2, 2
	}
	if r.Address != "" && !probe.Address(r.Address) {
		v.failf(at+"address", "%q is not host:port (like \"127.0.0.1:8080\")", r.Address)
	} else if _, err := netip.ParseAddrPort(r.Address); r.Address != "" && err != nil && s.Kind == probe.Listen {
		v.failf(at+"address", "%q: to see who listens takes an IP address and a port", r.Address)
	}
	if r.Verify && s.Kind != probe.HTTPS {
		v.failf(at+"verify", "it is for type https, this is %s", s.Kind)
	}
	if s.Service == probe.Whole && s.Address == "" && s.Kind != probe.Script && s.Kind != probe.None {
		v.failf(at+"address", "a check of the backend as a whole (service = \"*\") has no VIP to ask, and so needs one")
	}
	v.page(at, r, &s)
	v.command(at, r, &s)
	if s.Query = r.Query; (s.Kind == probe.DNS) != (s.Query != "") {
		v.failf(at+"query", "%q: a check of type dns, and no other, asks for a name (like \"example.com\")", r.Query)
	} else if s.Query != "" && !probe.Name(s.Query) {
		v.failf(at+"query", "%q is no name of DNS", r.Query)
	}
	if r.Interval != "" {
		s.Interval = v.duration(at+"interval", r.Interval)
	}
	if r.Timeout != "" {
		s.Timeout = v.duration(at+"timeout", r.Timeout)
	}
	if r.Rise != nil {
		s.Rise = int(v.between(at+"rise", *r.Rise, 1, 100))
	}
	if r.Fall != nil {
		s.Fall = int(v.between(at+"fall", *r.Fall, 1, 100))
	}
	return s
}

func kinds() string {
	words := make([]string, len(probe.Kinds))
	for i, k := range probe.Kinds {
		words[i] = string(k)
	}
	return strings.Join(words, ", ")
}

// page validates what is for http and https alone.
func (v *validator) page(at string, r rawCheck, s *probe.Spec) {
	if s.Kind != probe.HTTP && s.Kind != probe.HTTPS {
		for key, text := range map[string]string{"path": r.Path, "host": r.Host, "status": r.Status, "body": r.Body} {
			if text != "" {
				v.failf(at+key, "it is for type http and https, this is %s", s.Kind)
			}
		}
		return
	}
	s.Path, s.Status = "/", probe.Status{First: 200, Last: 299}
	if r.Path != "" {
		s.Path = r.Path
	}
	if u, err := url.ParseRequestURI(s.Path); err != nil || !strings.HasPrefix(s.Path, "/") || u.Fragment != "" {
		v.failf(at+"path", "%q is not a path (like \"/health\")", r.Path)
	}
	if strings.ContainsFunc(r.Host, func(c rune) bool { return c <= ' ' || c == '/' }) {
		v.failf(at+"host", "%q is not a host (like \"shop.example.com\")", r.Host)
	}
	if r.Status == "" {
		return
	}
	var err error
	if s.Status, err = probe.ParseStatus(r.Status); err != nil {
		v.failf(at+"status", "%w", err)
	}
}

// command validates what is for scripts alone.
func (v *validator) command(at string, r rawCheck, s *probe.Spec) {
	s.Command = r.Command
	switch {
	case s.Kind != probe.Script && len(r.Command) > 0:
		v.failf(at+"command", "it is for type script, this is %s", s.Kind)
	case s.Kind == probe.Script && (len(r.Command) == 0 || !filepath.IsAbs(r.Command[0])):
		v.failf(at+"command", "a script is a list that begins with an absolute path (like [\"/etc/caplance/check\", \"web\"])")
	}
}
