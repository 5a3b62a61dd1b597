// Package recording is the file format of recorded flows: what a live service's
// policy was asked and answered, compact enough to keep a day of it.
//
//	w, err := recording.NewWriter(file, recording.Header{Service: "web", Workers: 2})
//	w.Pick(worker, pool, &flow, index, by)
//	err = w.Close()
//
// A file is the eight bytes of Magic, the length of the header as a uvarint, the
// header as JSON, and entries. Numbers are uvarints (encoding/binary) where
// nothing else is said, fixed ones little-endian. An entry starts with its kind:
//
//	'P' a pool, before the first entry that is about it. Pools are numbered from
//	    0. Members and how many of them are eligible; for each member its
//	    handle, length of its name, name, and 64 bytes as ABI v1 has it in
//	    BACKENDS, with the load of that moment: later ones are not recorded.
//	'F' a flow that was placed: worker, pool's number, index of the backend + 1
//	    (0 is none), core.Decision, family (4 or 6), protocol, source and
//	    destination (4 or 16 bytes each), their ports (u16), rand (u64), ns since
//	    the flow before (signed varint), mark, flags. The hash follows from the
//	    5-tuple and the header's seed.
//	'E' a flow that ended: worker, handle of its backend, packets, bytes, ns.
//	'L' entries that were lost here, for the recorder was full: their number.
//	'Z' the end: number of 'F' entries. A file without it was cut short.
//
// A flow of IPv4 takes about 40 bytes.
package recording

import (
	"errors"
	"time"

	"github.com/caplance/caplance/core"
)

// Magic begins a recording; its last byte is the version.
const Magic = "CAPLREC\x01"

// Header says what was recorded.
type Header struct {
	Service string    `json:"service"`
	Policy  string    `json:"policy"` // at the beginning
	Config  []byte    `json:"config,omitempty"`
	Workers int       `json:"workers"`
	Seed    uint64    `json:"seed"` // of the 5-tuple hash
	Begun   time.Time `json:"begun"`
}

// Kinds of entries.
const (
	kindPool = 'P'
	kindFlow = 'F'
	kindEnd  = 'E'
	kindLost = 'L'
	kindLast = 'Z'
)

// Limits of what a reader believes.
const (
	maxHeader  = 1 << 20
	maxMembers = 1 << 16
	maxName    = 1 << 10
	maxPools   = 1 << 16
	maxWorkers = 256 // [datapath] queues
)

// ErrDamaged is a file that breaks the format.
var ErrDamaged = errors.New("recording is damaged")

// Pool is a pool as it was recorded. Its handles are the recording's; those of
// Pool.Members are new ones.
type Pool struct {
	*core.Pool
	Handles []core.Handle // by index in Members
}

// Entry is one entry of interest: a flow that was placed, or one that ended.
type Entry struct {
	Worker int
	Pool   int // number of the pool that a flow was placed in
	Flow   core.NewFlow
	Index  int // in the pool's Members, -1 for none
	By     core.Decision

	Ended bool
	End   core.FlowEnd // its handle is the recording's
}
