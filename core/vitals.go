package core

import (
	"strconv"
	"sync/atomic"
	"time"
)

// Vitals are what heartbeats tell of a backend and what changes no pool: all copies
// of a Backend share them. They may be read and written concurrently; nil knows
// nothing.
type Vitals struct {
	load atomic.Uint32 // per mille + 1; 0 is not known
	rtt  atomic.Int64  // ns
}

// UnknownLoad is the load of a backend whose agent tells none.
const UnknownLoad = 1<<32 - 1

// ParseLoad reads how hard CPUs are pressed, in percent, as HEALTH load= has it, in
// thousandths. What is no number from 0 to 100 is UnknownLoad.
func ParseLoad(percent string) uint32 {
	p, err := strconv.ParseFloat(percent, 64)
	if err != nil || !(p >= 0 && p <= 100) { // NaN is neither
		return UnknownLoad
	}
	return uint32(p*10 + 0.5)
}

// SetLoad notes the load, in thousandths, or UnknownLoad.
func (v *Vitals) SetLoad(permille uint32) { v.load.Store(permille + 1) }

// Load returns the load in thousandths, 0 to 1000, or UnknownLoad.
func (v *Vitals) Load() uint32 {
	if v == nil {
		return UnknownLoad
	}
	return v.load.Load() - 1
}

// SetRTT notes how long the last proof of the path took; 0: none came back.
func (v *Vitals) SetRTT(d time.Duration) { v.rtt.Store(int64(d)) }

// RTT returns it.
func (v *Vitals) RTT() time.Duration {
	if v == nil {
		return 0
	}
	return time.Duration(v.rtt.Load())
}
