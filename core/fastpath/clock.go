package fastpath

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// clock tells the time as the programs see it, in jiffies. These follow
// CLOCK_MONOTONIC, so one look at both is enough.
type clock struct {
	hz    uint64        // jiffies a second
	began time.Duration // of CLOCK_MONOTONIC
	first uint64        // jiffies then
}

func newClock() (c clock, err error) {
	var tick unix.Timespec // the coarse clocks move once a jiffy (linux/hrtimer_defs.h, KTIME_LOW_RES)
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &tick); err != nil || tick.Nano() <= 0 {
		return c, fmt.Errorf("fast path: the kernel's tick: %w", errors.Join(err, unix.EINVAL))
	}
	c.hz = uint64((int64(time.Second) + tick.Nano()/2) / tick.Nano())
	c.began = monotonic()
	high, err := jiffies(32)
	if err != nil {
		return c, err
	}
	low, err := jiffies(0)
	c.first = high<<32 | low
	return c, err
}

// jiffies are 32 bits of the kernel's, from a bit on.
func jiffies(from int32) (uint64, error) {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.FnJiffies64.Call(), asm.RSh.Imm(asm.R0, from), asm.Return(),
	}})
	if err != nil {
		return 0, fmt.Errorf("fast path: jiffies: %w", err)
	}
	defer prog.Close()
	n, err := prog.Run(&ebpf.RunOptions{Data: make([]byte, 64)})
	if err != nil {
		return 0, fmt.Errorf("fast path: jiffies: %w", err)
	}
	return uint64(n), nil
}

// now is the time in jiffies.
func (c clock) now() uint64 {
	d := uint64(monotonic() - c.began)
	const second = uint64(time.Second)
	return c.first + d/second*c.hz + d%second*c.hz/second
}

// jiffies are a duration's, at least one.
func (c clock) jiffies(d time.Duration) uint32 {
	return uint32(max(uint64(d)*c.hz/uint64(time.Second), 1))
}

// duration is that of a number of jiffies.
func (c clock) duration(jiffies uint32) time.Duration {
	return time.Duration(uint64(jiffies) * uint64(time.Second) / c.hz)
}

func monotonic() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return time.Duration(ts.Nano())
}
