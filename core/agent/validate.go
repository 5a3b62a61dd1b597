package agent

import (
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/registry"
)

// validator turns raw values into valid ones and collects what is wrong.
type validator struct {
	doc  *config.Document
	errs []error
}

func (v *validator) failf(key, format string, args ...any) {
	v.errs = append(v.errs, v.doc.Errorf(key, format, args...))
}

// name defaults to the host's, cut at the first dot.
func (v *validator) name(s string) string {
	if s == "" {
		host, err := os.Hostname()
		if err != nil || !registry.ValidName(host) {
			v.failf("name", "the host's name %q will not do: set one (1 to %d of A-Z a-z 0-9 . _ -)", host, registry.MaxName)
		}
		return host
	}
	if !registry.ValidName(s) {
		v.failf("name", "%q is not 1 to %d of A-Z a-z 0-9 . _ -", s, registry.MaxName)
	}
	return s
}

func (v *validator) names(key string, list []string) []string {
	for i, s := range list {
		if !registry.ValidName(s) {
			v.failf(fmt.Sprintf("%s[%d]", key, i), "%q is not a service's name", s)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return list
}

func (v *validator) addr(key, s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(s)
	a = a.Unmap()
	if err != nil || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
		v.failf(key, "%q is not a unicast IP address", s)
		return netip.Addr{}
	}
	return a
}

func (v *validator) addrs(key string, list []string) (out []netip.Addr) {
	for i, s := range list {
		out = append(out, v.addr(fmt.Sprintf("%s[%d]", key, i), s))
	}
	return out
}

func (v *validator) between(key string, n, least, most int64) int64 {
	if n < least || n > most {
		v.failf(key, "%d is out of range (%d to %d)", n, least, most)
	}
	return n
}

func (v *validator) duration(key, s string) time.Duration {
	d, err := v.doc.Duration(key, s, 100*time.Millisecond, 24*time.Hour)
	if err != nil {
		v.errs = append(v.errs, err)
	}
	return d
}

func (v *validator) check(s string) *url.URL {
	if s == "" {
		return nil
	}
	u, err := url.Parse(s)
	switch {
	case err != nil, u.Scheme != "tcp" && u.Scheme != "http", u.Hostname() == "", u.Scheme == "tcp" && u.Port() == "":
		v.failf("check", "%q is not a check (like \"tcp://127.0.0.1:80\" or \"http://127.0.0.1/health\")", s)
		return nil
	}
	return u
}

func (v *validator) stop(s string) (drain bool) {
	if s != "drain" && s != "deregister" {
		v.failf("stop", "%q is not a way to stop (drain, deregister)", s)
	}
	return s == "drain"
}

func (v *validator) path(key, s string) string {
	if !filepath.IsAbs(s) {
		v.failf(key, "%q is not an absolute path", s)
	}
	return s
}
