package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// latency returns the time one byte takes to the backend and back on a connection
// that stands, µs: 50th and 99th percentile.
func latency(ctx context.Context, b *testbed) (values []float64, err error) {
	err = b.Client.Do(func() error {
		defer clientEnd.pin()()
		fd, err := dial(unix.SOCK_STREAM, netip.AddrPortFrom(b.to, echoPort))
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return fmt.Errorf("ping-pong: %w", err)
		}
		if _, err := pingPong(ctx, fd, warmUp); err != nil {
			return err
		}
		times, err := pingPong(ctx, fd, window)
		values = percentiles(times, 0.5, 0.99)
		return err
	})
	return values, errors.Join(err, ctx.Err())
}

func pingPong(ctx context.Context, fd int, d time.Duration) (times []time.Duration, err error) {
	times = make([]time.Duration, 0, 1<<16)
	buf := [1]byte{'?'}
	for end := time.Now().Add(d); ctx.Err() == nil; {
		begin := time.Now()
		if _, err := whole(unix.Write, fd, buf[:]); err != nil {
			return nil, fmt.Errorf("ping-pong: %w", err)
		}
		if n, err := whole(unix.Read, fd, buf[:]); n != 1 {
			return nil, fmt.Errorf("ping-pong: no answer: %w", errors.Join(err, io.ErrUnexpectedEOF))
		}
		now := time.Now()
		if times = append(times, now.Sub(begin)); now.After(end) {
			break
		}
	}
	return times, nil
}

// percentiles returns the least times that the given shares of all do not exceed,
// µs; 0 when there are none. They sort the times.
func percentiles(times []time.Duration, shares ...float64) (us []float64) {
	slices.Sort(times)
	for _, share := range shares {
		i := int(share * float64(len(times)))
		if n := len(times); n == 0 {
			us = append(us, 0)
		} else {
			us = append(us, float64(times[min(i, n-1)].Nanoseconds())/1000)
		}
	}
	return us
}
