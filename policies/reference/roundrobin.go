package reference

import (
	"cmp"

	"github.com/caplance/caplance/core"
)

// roundRobin is stride scheduling.
type roundRobin struct {
	*worker
	stateless
	turns map[uint64]uint64 // by backend id
	now   uint64
}

func (r *roundRobin) stride(i int) uint64 { return 1 << 40 / uint64(r.members[i].Weight) }

func (r *roundRobin) setPool() {
	turns := make(map[uint64]uint64)
	n := len(r.members)
	for i := range r.members {
		id := r.members[i].ID
		if turn, ok := r.turns[id]; ok {
			turns[id] = min(turn, r.now+r.stride(i)-1)
		} else {
			phase := uint64((i+n-n*r.index/r.workers)%n) << 16 / uint64(n)
			turns[id] = r.now + r.stride(i)*phase>>16
		}
	}
	r.turns = turns
}

func (r *roundRobin) pick(f *core.NewFlow) int {
	if f.Attempt > 0 {
		return r.notFull(f.Rand, equal)
	}
	first := 0
	turn := func(i int) uint64 { return r.turns[r.members[i].ID] }
	for i := range r.members {
		if cmp.Or(cmp.Compare(turn(i), turn(first)), cmp.Compare(r.stride(i), r.stride(first))) < 0 {
			first = i
		}
	}
	r.now = turn(first)
	r.turns[r.members[first].ID] += r.stride(first)
	return first
}

// smooth is nginx's weighted round-robin.
type smooth struct {
	*worker
	stateless
	weights, credits []int64
	sum              int64
	ids              []uint64
}

const smoothSum = 1 << 27

func (s *smooth) setPool() {
	was, ids, sum := s.credits, s.ids, s.sum
	s.scale()
	s.ids, s.credits = make([]uint64, len(s.members)), make([]int64, len(s.members))
	for i := range s.members {
		id := s.members[i].ID
		s.ids[i] = id
		s.credits[i] = int64(core.Mix(id+uint64(s.index)) % uint64(s.weights[i]))
		for j := range ids {
			if ids[j] == id {
				s.credits[i] = was[j] * s.sum / sum
			}
		}
	}
}

// scale makes the weights sum up to just about smoothSum.
func (s *smooth) scale() {
	total, shift := uint64(len(s.members)), 0
	for i := range s.members {
		total += s.share(i)
	}
	for total>>shift > smoothSum {
		shift++
	}
	s.weights, s.sum = make([]int64, len(s.members)), 0
	for i := range s.members {
		s.weights[i] = max(int64(s.share(i)*(smoothSum<<shift/total)>>shift), 1)
		s.sum += s.weights[i]
	}
}

func (s *smooth) pick(f *core.NewFlow) int {
	if f.Attempt > 0 {
		return s.notFull(f.Rand, equal)
	}
	richest := 0
	for i := range s.credits {
		if s.credits[i] += s.weights[i]; s.credits[i] > s.credits[richest] {
			richest = i
		}
	}
	s.credits[richest] -= s.sum
	return richest
}
