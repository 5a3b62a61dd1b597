package datapath

import (
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/caplance/caplance/core"
)

// Limiter holds the new flows of each source to a rate, by a token bucket for each of
// those that came last: when a bucket is full again (GCRA, ITU-T I.371) is all that it
// keeps. All workers share it, as a source's flows are spread over them. It has no locks;
// a source whose bucket gives way to another's has a full one.
type Limiter struct {
	epoch time.Time
	seed  uint64
	slots [sourceSets * sourceWays]atomic.Uint64 // a tag of 24 bits, and when it is full, µs since epoch, of 40
}

const (
	sourceWays = 4
	sourceSets = 1 << 14 // 512 KiB
	dueBits    = 40
	dueMask    = 1<<dueBits - 1
)

// NewLimiter returns one with full buckets; seed keeps others from choosing sources that
// share slots.
func NewLimiter(seed uint64) *Limiter {
	return &Limiter{epoch: time.Now(), seed: core.Mix(seed)}
}

// source is whose new flows are counted together.
type source struct {
	service core.ServiceID
	hi, lo  uint64 // of the address, masked
}

// sourceOf returns the source of a client's packet.
func sourceOf(s *core.Service, addr *[16]byte) source {
	out := source{s.ID, binary.BigEndian.Uint64(addr[:8]), binary.BigEndian.Uint64(addr[8:])}
	bits := s.SourcePrefix6
	if out.hi == 0 && out.lo>>32 == 0xffff {
		bits = 96 + s.SourcePrefix4
	}
	out.hi &= ^uint64(0) << max(64-bits, 0)
	out.lo &= ^uint64(0) << min(128-bits, 64)
	return out
}

// Take reports whether a source may begin a flow now, at so many a second and so many at
// once, and counts it.
func (l *Limiter) Take(src source, rate, burst int, now time.Duration) bool {
	h := core.Mix(core.Mix(core.Mix(l.seed^uint64(src.service))^src.hi) ^ src.lo)
	set, tag := l.slots[h%sourceSets*sourceWays:][:sourceWays], h>>dueBits|1 // 0 is an empty slot's
	interval := int64(max(time.Second/time.Duration(rate), time.Microsecond) / time.Microsecond)
	deepest := int64(burst) * interval
	for range 4 { // others may be faster
		slot, was, due := l.find(set, tag, now, deepest)
		if due += interval; due > deepest {
			return false
		}
		if slot.CompareAndSwap(was, tag<<dueBits|uint64(int64(now/time.Microsecond)+due)&dueMask) {
			return true
		}
	}
	return true
}

// find returns the slot of a tag, or else the one whose bucket is the fullest, with its
// value and in how many µs the bucket is full.
func (l *Limiter) find(set []atomic.Uint64, tag uint64, now time.Duration, deepest int64) (slot *atomic.Uint64, was uint64, due int64) {
	var victim int64
	for i := range set {
		v := set[i].Load()
		d := int64(v-uint64(now/time.Microsecond)) << (64 - dueBits) >> (64 - dueBits)
		if d > 2*deepest { // so long ago that the clock has gone around
			d = 0
		}
		if v>>dueBits == tag {
			return &set[i], v, max(d, 0)
		}
		if v == 0 {
			d = -1 << dueBits
		}
		if slot == nil || d < victim {
			slot, was, victim = &set[i], v, d
		}
	}
	return slot, was, 0
}
