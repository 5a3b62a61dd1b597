package agent

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/probe"
	"github.com/caplance/caplance/core/protocol"
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
		if err != nil || !protocol.ValidName(host) {
			v.failf("name", "the host's name %q will not do: set one (1 to %d of A-Z a-z 0-9 . _ -)", host, protocol.MaxName)
		}
		return host
	}
	if !protocol.ValidName(s) {
		v.failf("name", "%q is not 1 to %d of A-Z a-z 0-9 . _ -", s, protocol.MaxName)
	}
	return s
}

func (v *validator) names(key string, list []string) []string {
	for i, s := range list {
		if !protocol.ValidName(s) {
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

func (v *validator) networks(key string, list []string) (out []netip.Prefix) {
	for i, s := range list {
		p, err := config.ParseNetwork(s)
		switch {
		case err != nil:
			v.failf(fmt.Sprintf("%s[%d]", key, i), "%w", err)
			continue
		case p != p.Masked():
			v.failf(fmt.Sprintf("%s[%d]", key, i), "%q has bits beside its network: write \"%v\"", s, p.Masked())
			continue
		}
		out = append(out, p)
	}
	return out
}

// checks validates the [[check]] tables.
func (v *validator) checks(raw []probe.Table) (out []probe.Spec) {
	for i, r := range raw {
		at := fmt.Sprintf("check[%d].", i)
		if r.Service != "" && r.Service != probe.Whole && !protocol.ValidName(r.Service) {
			v.failf(at+"service", "%q is not a service's name, or *", r.Service)
		}
		out = append(out, r.Spec(at, probe.Reader{Failf: v.failf, Duration: v.duration}))
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

// file is a path, or "".
func (v *validator) file(key, path string) string {
	if path == "" {
		return ""
	}
	return v.path(key, path)
}

func (v *validator) patterns(key string, list []string) (out []auth.Pattern) {
	for i, s := range list {
		p, err := auth.ParsePattern(s)
		if err != nil {
			v.failf(fmt.Sprintf("%s[%d]", key, i), "%w", err)
		}
		out = append(out, p)
	}
	return out
}

// certificate checks that all that belongs to a certificate is there, or nothing.
func (v *validator) certificate(c *Config) {
	f := c.Certificate
	if f == (auth.Files{}) && len(c.BalancerNames) == 0 {
		return
	}
	if c.Key != "" {
		v.failf("key", "an agent has a key or a certificate, not both (take key and balancer_keys out, or ca_file, cert_file, key_file and balancer_names)")
	}
	for _, k := range []struct{ name, path, what string }{
		{"ca_file", f.CA, "the authority that signs balancers' certificates"},
		{"cert_file", f.Certificate, "this machine's certificate"},
		{"key_file", f.Key, "its private key"},
	} {
		if k.path == "" {
			v.failf(k.name, "it is not set, and a certificate takes ca_file, cert_file, key_file and balancer_names: %s", k.what)
		}
	}
	if len(c.BalancerNames) == 0 {
		v.failf("balancer_names", "it is not set: whoever has a certificate of the authority could pose as the balancer (the names in the balancer's certificate, like \"lb.example.org\" or \"spiffe://example.org/balancer\")")
	}
}

func (v *validator) keys(list []string) (out []auth.PublicKey) {
	for i, s := range list {
		k, err := auth.ParsePublicKey(s)
		if err != nil {
			v.failf(fmt.Sprintf("balancer_keys[%d]", i), "%w", err)
		}
		out = append(out, k)
	}
	return out
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

// group checks that a group is there; "" is none.
func (v *validator) group(key, name string) string {
	if name != "" {
		if _, err := config.Group(name); err != nil {
			v.failf(key, "%w", err)
		}
	}
	return name
}
