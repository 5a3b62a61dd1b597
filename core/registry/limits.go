package registry

import (
	"cmp"
	"sync/atomic"
	"time"
)

// Limits bound what others can have the registry do. Zero values stand for those of
// DefaultLimits.
type Limits struct {
	Connections int           // that have not registered
	PerAddress  int           // of these, from one address
	Handshake   time.Duration // until a key is proven
	Backends    int
	Lines       int // of one session, a second; more are read later
	Changes     int // of one session's backend, a second; more are answered later
	Records     int // of one agent's connections, a second; more are read later
	Sanity      int // sanity datagrams of all sessions together, a second
}

// DefaultLimits are for as many backends as a balancer may have. All agents come at
// once after its start. A connection costs some 12 KB (two stacks and two buffers of a
// line), and with keys up to 50 KB (TLS, and at most 16 KB of a handshake). More than
// one host behind a NAT has agents.
var DefaultLimits = Limits{
	Connections: 4096, PerAddress: 512, Handshake: 5 * time.Second, Backends: 4096,
	Lines: 100, Changes: 5, Records: 100_000, Sanity: 1000,
}

// fill puts the defaults where nothing is said.
func (l *Limits) fill() {
	d := &DefaultLimits
	l.Connections, l.PerAddress, l.Handshake = cmp.Or(l.Connections, d.Connections), cmp.Or(l.PerAddress, d.PerAddress), cmp.Or(l.Handshake, d.Handshake)
	l.Backends, l.Lines, l.Changes = cmp.Or(l.Backends, d.Backends), cmp.Or(l.Lines, d.Lines), cmp.Or(l.Changes, d.Changes)
	l.Records, l.Sanity = cmp.Or(l.Records, d.Records), cmp.Or(l.Sanity, d.Sanity)
}

// counted is how often a limit held somebody up.
type counted struct {
	connections, handshakes, registers, lines, changes, records, sanities atomic.Uint64
}

// AddTo adds to a map by name what was refused and held up: connections for which was
// no room, peers that proved no known key, REGISTERs, lines, changes and records of
// connections that came too fast, and sanity datagrams that were not sent.
func (r *Registry) AddTo(m map[string]uint64) {
	for name, n := range map[string]*atomic.Uint64{
		"registry_connections_refused": &r.counted.connections, "registry_handshakes_failed": &r.counted.handshakes,
		"registry_registers_refused": &r.counted.registers, "registry_lines_delayed": &r.counted.lines,
		"registry_changes_delayed": &r.counted.changes, "registry_records_delayed": &r.counted.records, "registry_sanity_held_back": &r.counted.sanities,
	} {
		m[name] += n.Load()
	}
}
