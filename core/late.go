package core

import "sync"

// LateLookup is a lookup table that is filled when it is first asked, which
// takes a millisecond or two: of a predecessor's tables most are never asked.
// Its methods may be called concurrently.
type LateLookup struct{ get func() *Lookup }

// NewLateLookup returns the table that NewLookup fills. It keeps candidates.
func NewLateLookup(candidates []Candidate) *LateLookup {
	return &LateLookup{sync.OnceValue(func() *Lookup { return NewLookup(candidates) })}
}

// Handle returns the membership that hash falls to, or 0.
func (l *LateLookup) Handle(hash uint64) Handle { return l.get().Handle(hash) }
