package fastpath

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// clock tells the time as the programs see it, in jiffies. These follow
// CLOCK_MONOTONIC, but where a second is no whole number of ns per jiffy the two
// drift apart: sync reads them anew.
type clock struct {
	hz   uint64 // jiffies a second
	low  *ebpf.Program
	base atomic.Pointer[reading]
}

// reading is one look at both clocks.
type reading struct {
	at      time.Duration // CLOCK_MONOTONIC
	jiffies uint64
}

func newClock() (_ *clock, err error) {
	c := &clock{}
	var tick unix.Timespec // the coarse clocks move once a jiffy (linux/hrtimer_defs.h, KTIME_LOW_RES)
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &tick); err != nil || tick.Nano() <= 0 {
		return nil, fmt.Errorf("fast path: the kernel's tick: %w", errors.Join(err, unix.EINVAL))
	}
	c.hz = uint64((int64(time.Second) + tick.Nano()/2) / tick.Nano())
	if c.low, err = jiffiesProgram(0); err != nil {
		return nil, err
	}
	high, err := jiffiesProgram(32)
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	defer high.Close()
	top, err := runJiffies(high)
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	at := monotonic()
	low, err := runJiffies(c.low)
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	c.base.Store(&reading{at, top<<32 | low})
	return c, nil
}

func (c *clock) close() error { return c.low.Close() }

// sync reads the kernel's jiffies again. The upper half follows from the
// reading before: less than 2³¹ jiffies have passed since.
func (c *clock) sync() error {
	at := monotonic()
	low, err := runJiffies(c.low)
	if err != nil {
		return err
	}
	c.base.Store(&reading{at, extend(c.base.Load().jiffies, low)})
	return nil
}

// extend returns the jiffies after was whose lower half is low.
func extend(was, low uint64) uint64 {
	now := was&^(1<<32-1) | low
	if now+1<<31 < was {
		now += 1 << 32 // it wrapped
	}
	return now
}

// jiffiesProgram returns 32 bits of the kernel's jiffies, from a bit on.
func jiffiesProgram(from int32) (*ebpf.Program, error) {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.FnJiffies64.Call(), asm.RSh.Imm(asm.R0, from), asm.Return(),
	}})
	if err != nil {
		return nil, fmt.Errorf("fast path: jiffies: %w", err)
	}
	return prog, nil
}

func runJiffies(prog *ebpf.Program) (uint64, error) {
	n, err := prog.Run(&ebpf.RunOptions{Data: make([]byte, 64)})
	if err != nil {
		return 0, fmt.Errorf("fast path: jiffies: %w", err)
	}
	return uint64(n), nil
}

// now returns the time in jiffies.
func (c *clock) now() uint64 {
	r := c.base.Load()
	d := uint64(monotonic() - r.at)
	const second = uint64(time.Second)
	return r.jiffies + d/second*c.hz + d%second*c.hz/second
}

// jiffies returns those of a duration, at least one.
func (c *clock) jiffies(d time.Duration) uint32 {
	return uint32(max(uint64(d)*c.hz/uint64(time.Second), 1))
}

// duration returns that of a number of jiffies.
func (c *clock) duration(jiffies uint32) time.Duration {
	return time.Duration(uint64(jiffies) * uint64(time.Second) / c.hz)
}

func monotonic() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return time.Duration(ts.Nano())
}
