package api

import (
	"net/netip"
	"time"
)

// TokenOrder asks for a token by which an agent may join; what is left out has the
// default of [[agent]].
type TokenOrder struct {
	Name      string         `json:"name"`
	TTL       float64        `json:"ttl_s"`             // seconds
	Address   string         `json:"address,omitempty"` // host:port, or host, at which the agent reaches the balancer
	Allow     []netip.Prefix `json:"allow,omitempty"`
	Services  []string       `json:"services,omitempty"`
	MaxWeight *uint32        `json:"max_weight,omitempty"`
	MaxNames  int            `json:"max_names,omitempty"`
}

// TokenAnswer is a token that is out. It is not kept, and cannot be asked for again.
type TokenAnswer struct {
	Token   string    `json:"token"`
	Name    string    `json:"name"`
	Server  string    `json:"server"`
	Expires time.Time `json:"expires"`
}

// AgentRow is one that may register, or for which a token is out.
type AgentRow struct {
	Name      string         `json:"name"`
	From      string         `json:"from"` // configuration, joined, or token: it has yet to join
	Keys      []string       `json:"keys,omitempty"`
	SAN       []string       `json:"san,omitempty"`   // patterns of the names in its certificates
	Allow     []netip.Prefix `json:"allow,omitempty"` // none: the address that it comes from
	Services  []string       `json:"services,omitempty"`
	MaxWeight uint32         `json:"max_weight"`
	MaxNames  int            `json:"max_names"`
	Expires   *time.Time     `json:"expires,omitempty"` // of a token
	Sessions  []AgentSession `json:"sessions,omitempty"`
}

// AgentSession is one by which a backend of an agent's is registered.
type AgentSession struct {
	Backend string         `json:"backend"`
	Agent   string         `json:"agent"` // whose it is; "" where agents prove nothing
	Peer    netip.AddrPort `json:"peer"`
	Proven  string         `json:"proven,omitempty"`  // the key, or the names of the certificate and the begin of its SHA-256
	Expires *time.Time     `json:"expires,omitempty"` // when the certificate ends, and the session with it
	Heard   time.Time      `json:"heard"`             // when the agent's last line came
	Lease   float64        `json:"lease_s"`           // seconds for which it may be silent
}

// CertificateRow is one of those in a file that this machine proves itself by, or knows
// others by.
type CertificateRow struct {
	File        string    `json:"file"`
	Subject     string    `json:"subject"`     // its names, or the authority's
	Fingerprint string    `json:"fingerprint"` // the first 8 hexadecimal digits of its SHA-256
	Authority   bool      `json:"authority"`   // of others, not this machine's own
	From        time.Time `json:"from"`
	Until       time.Time `json:"until"`
}
