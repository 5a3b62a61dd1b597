package registry

import (
	"maps"
	"sync"
	"time"
)

// bucket is a token bucket, counted from the other end: the zero value is full. It
// has room for four seconds.
type bucket struct {
	used float64 // tokens, decays with time
	last time.Time
}

// take takes a token and returns how long to wait until it is there.
func (b *bucket) take(now time.Time, perSec int) time.Duration { return b.takeAll(1, now, perSec) }

// takeAll does so with some of them.
func (b *bucket) takeAll(n int, now time.Time, perSec int) time.Duration {
	b.used = max(0, b.used-now.Sub(b.last).Seconds()*float64(perSec))
	b.last = now
	b.used += float64(n)
	return time.Duration(max(0, b.used-4*float64(perSec)) / float64(perSec) * float64(time.Second))
}

// room reports whether a token would be there at once.
func (b *bucket) room(now time.Time, perSec int) bool {
	return b.used-now.Sub(b.last).Seconds()*float64(perSec)+1 <= 4*float64(perSec)
}

// idle reports whether nothing of it is used.
func (b *bucket) idle(now time.Time, perSec int) bool {
	return now.Sub(b.last).Seconds()*float64(perSec) >= b.used
}

// buckets are those of many, by name; the zero value is ready. Its methods may be called
// concurrently.
type buckets struct {
	mu    sync.Mutex
	of    map[string]*bucket
	swept time.Time
}

// take takes a token of one bucket and returns how long to wait until it is there.
func (m *buckets) take(name string, now time.Time, perSec int) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.Sub(m.swept) >= time.Minute {
		m.swept = now
		maps.DeleteFunc(m.of, func(_ string, b *bucket) bool { return b.idle(now, perSec) })
	}
	b := m.of[name]
	if b == nil {
		if m.of == nil {
			m.of = map[string]*bucket{}
		}
		b = &bucket{}
		m.of[name] = b
	}
	return b.take(now, perSec)
}

// pool is a token bucket for many, with room for one second. The zero value is full.
type pool struct {
	mu   sync.Mutex
	used float64
	last time.Time
}

// take takes a token if there is one.
func (p *pool) take(now time.Time, perSec int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used = max(0, p.used-now.Sub(p.last).Seconds()*float64(perSec))
	p.last = now
	if p.used+1 > float64(perSec) {
		return false
	}
	p.used++
	return true
}
