package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// datagrams returns how many UDP datagrams of 64 bytes a second reach the backend
// while one client sends all it can, and what each that does costs, in ns of
// the whole machine's processors, both ends included.
func datagrams(ctx context.Context, b *testbed) ([]float64, error) {
	var fd int
	if err := b.Client.Do(func() (err error) {
		fd, err = dial(unix.SOCK_DGRAM, netip.AddrPortFrom(b.to, discardPort))
		return err
	}); err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var sending sync.WaitGroup
	var stop atomic.Bool
	sending.Go(func() {
		for m := newMessages(64); !stop.Load(); {
			_, _ = m.send(fd) // what does not go is not counted
		}
	})
	pause(ctx, warmUp)
	packets, begin := b.sink.packets.Load(), time.Now()
	busy, err := busyTime()
	pause(ctx, window)
	packets = b.sink.packets.Load() - packets
	seconds := time.Since(begin).Seconds()
	after, err2 := busyTime()
	stop.Store(true)
	sending.Wait()
	if err := errors.Join(err, err2, ctx.Err()); err != nil {
		return nil, err
	}
	if packets == 0 {
		return nil, fmt.Errorf("no datagram to %v arrives", b.to)
	}
	return []float64{float64(packets) / seconds, float64((after - busy).Nanoseconds()) / float64(packets)}, nil
}

// busyTime returns how long this machine's processors have worked, all together.
func busyTime() (time.Duration, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("processor time: %w", err)
	}
	return parseBusy(stat)
}

// parseBusy reads the first line of /proc/stat (proc(5)): user, nice, system,
// idle, iowait, irq and softirq, in ticks of 10 ms on every architecture of
// Go's. Idle and iowait are no work; steal and what follows is not ours.
func parseBusy(stat []byte) (busy time.Duration, err error) {
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	fields := bytes.Fields(line)
	if len(fields) < 8 || string(fields[0]) != "cpu" {
		return 0, fmt.Errorf("processor time: /proc/stat begins with %q", line)
	}
	for i, f := range fields[1:8] {
		ticks, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("processor time: %w", err)
		}
		if i != 3 && i != 4 {
			busy += time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	return busy, nil
}
