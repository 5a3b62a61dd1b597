package auth

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
)

// Pattern is a name that certificates have, a DNS name or a URI (RFC 5280, §4.2.1.6).
// One label of the DNS name or one segment of the URI's path may be *, which stands
// for any one label or segment.
type Pattern struct{ text string }

// Any is what stands for any label, segment, or part of an agent's name.
const Any = "*"

// ParsePattern reads one, like web1.example.org, *.web.example.org or
// spiffe://example.org/agent/*.
func ParsePattern(text string) (Pattern, error) {
	canonical, err := canonicalPattern(text)
	if err != nil {
		return Pattern{}, fmt.Errorf("%q is not a name of certificates: %w (like \"web1.example.org\", \"*.web.example.org\" or \"spiffe://example.org/agent/*\")", clip(text), err)
	}
	return Pattern{canonical}, nil
}

func canonicalPattern(text string) (string, error) {
	if strings.Count(text, Any) > 1 {
		return "", errors.New("it has more than one *")
	}
	if isURI(text) {
		u, err := url.Parse(text)
		if err != nil {
			return "", errors.New("it is no URI")
		}
		return canonicalURI(u)
	}
	return canonicalDNS(text)
}

// String returns the pattern as ParsePattern reads it.
func (p Pattern) String() string { return p.text }

// Wild reports whether it matches more than one name.
func (p Pattern) Wild() bool { return strings.Contains(p.text, Any) }

// match reports whether a name, of those that namesOf returns, is meant, and what the
// * stands for.
func (p Pattern) match(name string) (part string, ok bool) {
	want, have := parts(p.text), parts(name)
	if isURI(p.text) != isURI(name) || len(want) != len(have) {
		return "", false
	}
	for i := range want {
		switch {
		case want[i] == Any && have[i] != "":
			part = have[i]
		case want[i] != have[i]:
			return "", false
		}
	}
	return part, true
}

// Overlaps reports whether a name can be meant by both.
func (p Pattern) Overlaps(q Pattern) bool {
	a, b := parts(p.text), parts(q.text)
	if isURI(p.text) != isURI(q.text) || len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] && a[i] != Any && b[i] != Any {
			return false
		}
	}
	return true
}

func isURI(name string) bool { return strings.Contains(name, "://") }

// parts are what a * can stand for.
func parts(name string) []string {
	if isURI(name) {
		return strings.Split(name, "/")
	}
	return strings.Split(name, ".")
}

// canonicalDNS returns a DNS name in lower case. A label may be *, but not the last.
func canonicalDNS(name string) (string, error) {
	name = strings.ToLower(name)
	labels := strings.Split(name, ".")
	if _, err := netip.ParseAddr(name); err == nil {
		return "", errors.New("it is an IP address")
	}
	if len(name) > 253 {
		return "", errors.New("it is longer than 253 bytes")
	}
	for i, l := range labels {
		if l == Any && i < len(labels)-1 {
			continue
		}
		if l == "" || len(l) > 63 || strings.ContainsFunc(l, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' }) {
			return "", fmt.Errorf("%q is no label of a DNS name", clip(l))
		}
	}
	return name, nil
}

// canonicalURI returns a URI of a scheme, a host and a path, its host in lower case. A
// segment of the path may be *.
func canonicalURI(u *url.URL) (string, error) {
	if u.Scheme == "" || u.Host == "" || u.Opaque != "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return "", errors.New("it is no URI of a scheme, a host and a path")
	}
	path := u.EscapedPath()
	for segment := range strings.SplitSeq(path, "/") {
		if strings.Contains(segment, Any) && segment != Any {
			return "", errors.New("* stands for a whole segment")
		}
	}
	if strings.Contains(u.Host, Any) {
		return "", errors.New("its host has a *")
	}
	return strings.ToLower(u.Scheme) + "://" + strings.ToLower(u.Host) + path, nil
}
