package main

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// end is one of the two ends of the traffic. Where threads sleep and wake each
// other for every byte, it matters more than any balancer whether the
// scheduler lets them share a processor; so each end has one, as it would if
// they were two machines.
type end bool

const (
	clientEnd  end = false
	backendEnd end = true
)

// pin keeps the calling goroutine's thread on the end's processor, the first
// or the last one there is, until undo is called.
func (e end) pin() (undo func()) {
	runtime.LockOSThread()
	var all, one unix.CPUSet
	if unix.SchedGetaffinity(0, &all) != nil {
		return runtime.UnlockOSThread
	}
	for cpu, seen := 0, 0; seen < all.Count(); cpu++ {
		if !all.IsSet(cpu) {
			continue
		}
		if seen++; seen == 1 || e == backendEnd {
			one.Zero()
			one.Set(cpu)
		}
	}
	_ = unix.SchedSetaffinity(0, &one) // else the figures scatter more
	return func() {
		_ = unix.SchedSetaffinity(0, &all)
		runtime.UnlockOSThread()
	}
}
