package probe

import (
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Table is a check as a configuration file has it.
type Table struct {
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
	Interval string   `toml:"interval" is:"duration"`
	Timeout  string   `toml:"timeout" is:"duration"`
	Rise     *int64   `toml:"rise"`
	Fall     *int64   `toml:"fall"`
}

// Reader reads values of a file, and takes what is wrong with one. Keys are those of
// the file.
type Reader struct {
	Failf    func(key, format string, args ...any)
	Duration func(key, value string) time.Duration
}

// Spec returns the check; what is left out has the defaults of its type. What is wrong
// is handed to read, under keys that begin with at.
func (r *Table) Spec(at string, read Reader) Spec {
	s := Default()
	s.Service, s.Address, s.Host, s.Body, s.VerifyServer = r.Service, r.Address, r.Host, r.Body, r.Verify
	if r.Type != "" {
		s.Kind = Kind(r.Type)
	}
	if !slices.Contains(Kinds, s.Kind) {
		read.Failf(at+"type", "%q is not a type of check (%s)", r.Type, kinds())
		return s
	}
	if s.Kind != Listen {
		s.Interval, s.Rise, s.Fall = 2*time.Second, 2, 2
	}
	if r.Address != "" && !Address(r.Address) {
		read.Failf(at+"address", "%q is not host:port (like \"127.0.0.1:8080\")", r.Address)
	} else if _, err := netip.ParseAddrPort(r.Address); r.Address != "" && err != nil && s.Kind == Listen {
		read.Failf(at+"address", "%q: to see who listens takes an IP address and a port", r.Address)
	}
	if r.Verify && s.Kind != HTTPS {
		read.Failf(at+"verify", "it is for type https, this is %s", s.Kind)
	}
	if s.Service == Whole && s.Address == "" && s.Kind != Script && s.Kind != None {
		read.Failf(at+"address", "a check of the backend as a whole (service = \"*\") has no VIP to ask, and so needs one")
	}
	r.page(at, read, &s)
	r.command(at, read, &s)
	if s.Query = r.Query; (s.Kind == DNS) != (s.Query != "") {
		read.Failf(at+"query", "%q: a check of type dns, and no other, asks for a name (like \"example.com\")", r.Query)
	} else if s.Query != "" && !Name(s.Query) {
		read.Failf(at+"query", "%q is no name of DNS", r.Query)
	}
	if r.Interval != "" {
		s.Interval = read.Duration(at+"interval", r.Interval)
	}
	if r.Timeout != "" {
		s.Timeout = read.Duration(at+"timeout", r.Timeout)
	}
	if r.Rise != nil {
		s.Rise = count(at+"rise", *r.Rise, read)
	}
	if r.Fall != nil {
		s.Fall = count(at+"fall", *r.Fall, read)
	}
	return s
}

func count(key string, n int64, read Reader) int {
	if n < 1 || n > 100 {
		read.Failf(key, "%d is out of range (1 to 100)", n)
	}
	return int(n)
}

func kinds() string {
	words := make([]string, len(Kinds))
	for i, k := range Kinds {
		words[i] = string(k)
	}
	return strings.Join(words, ", ")
}

// page validates what is for http and https alone.
func (r *Table) page(at string, read Reader, s *Spec) {
	if s.Kind != HTTP && s.Kind != HTTPS {
		for key, text := range map[string]string{"path": r.Path, "host": r.Host, "status": r.Status, "body": r.Body} {
			if text != "" {
				read.Failf(at+key, "it is for type http and https, this is %s", s.Kind)
			}
		}
		return
	}
	s.Path, s.Status = "/", Status{First: 200, Last: 299}
	if r.Path != "" {
		s.Path = r.Path
	}
	if u, err := url.ParseRequestURI(s.Path); err != nil || !strings.HasPrefix(s.Path, "/") || u.Fragment != "" {
		read.Failf(at+"path", "%q is not a path (like \"/health\")", r.Path)
	}
	if strings.ContainsFunc(r.Host, func(c rune) bool { return c <= ' ' || c == '/' }) {
		read.Failf(at+"host", "%q is not a host (like \"shop.example.com\")", r.Host)
	}
	if r.Status == "" {
		return
	}
	var err error
	if s.Status, err = ParseStatus(r.Status); err != nil {
		read.Failf(at+"status", "%w", err)
	}
}

// command validates what is for scripts alone.
func (r *Table) command(at string, read Reader, s *Spec) {
	s.Command = r.Command
	switch {
	case s.Kind != Script && len(r.Command) > 0:
		read.Failf(at+"command", "it is for type script, this is %s", s.Kind)
	case s.Kind == Script && (len(r.Command) == 0 || !filepath.IsAbs(r.Command[0])):
		read.Failf(at+"command", "a script is a list that begins with an absolute path (like [\"/etc/caplance/check\", \"web\"])")
	}
}
