package reference

import (
	"encoding/binary"

	"github.com/caplance/caplance/core"
)

// stateless is a policy that neither counts nor remembers.
type stateless struct{}

func (stateless) setPool()            {}
func (stateless) refreshed()          {}
func (stateless) ended(*core.FlowEnd) {}

type hash struct {
	*worker
	stateless
	key func(*core.NewFlow) uint64
}

func tuple(f *core.NewFlow) uint64 { return f.Hash }

func client(f *core.NewFlow) uint64 {
	le := binary.LittleEndian
	return core.Mix(core.Mix(le.Uint64(f.Key.Src[:8])) ^ le.Uint64(f.Key.Src[8:]))
}

func (h *hash) pick(f *core.NewFlow) int {
	if f.Attempt > 0 {
		return h.notFull(h.key(f), equal)
	}
	return lookup(h.pool.Lookup, h.key(f))
}

// failover is hash among those of the lowest priority.
type failover struct {
	*worker
	stateless
	table *core.Lookup
}

func priority(m *core.Member) uint32 { return m.Priority }

func (s *failover) setPool() {
	var first []core.Candidate
	var lowest uint32
	for i := range s.members {
		m := &s.members[i]
		if len(first) == 0 || m.Priority < lowest {
			first, lowest = nil, m.Priority
		}
		if m.Priority == lowest {
			first = append(first, core.Candidate{ID: m.ID, Weight: m.Weight, Index: uint16(i)})
		}
	}
	s.table = core.NewLookup(first)
}

func (s *failover) pick(f *core.NewFlow) int {
	if f.Attempt > 0 {
		return s.notFull(f.Hash, priority)
	}
	return lookup(s.table, f.Hash)
}
