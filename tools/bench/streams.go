package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A load runs for warmUp, and is then measured for window.
const (
	warmUp = 200 * time.Millisecond
	window = 500 * time.Millisecond
)

// oneStream returns the throughput of one TCP connection, Mbit/s.
func oneStream(ctx context.Context, b *testbed) ([]float64, error) { return b.streams(ctx, 1) }

// eightStreams returns that of eight together.
func eightStreams(ctx context.Context, b *testbed) ([]float64, error) { return b.streams(ctx, 8) }

// smallStream returns that of one whose packets are of the MTU's size.
func smallStream(ctx context.Context, b *testbed) (rate []float64, err error) {
	if err := b.Client.Segmentation("eth0", false); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.Client.Segmentation("eth0", true)) }()
	return b.streams(ctx, 1)
}

// streams returns what n connections bring to the backend, Mbit/s.
func (b *testbed) streams(ctx context.Context, n int) ([]float64, error) {
	var fds []int
	var sending sync.WaitGroup
	defer func() {
		for _, fd := range fds {
			_ = unix.Shutdown(fd, unix.SHUT_RDWR) // ends the sender's write
		}
		sending.Wait()
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for range n {
		var fd int
		if err := b.Client.Do(func() (err error) {
			fd, err = dial(unix.SOCK_STREAM, netip.AddrPortFrom(b.to, discardPort))
			return err
		}); err != nil {
			return nil, err
		}
		fds = append(fds, fd)
		sending.Go(func() { send(fd) })
	}
	pause(ctx, warmUp)
	bytes, begin := b.sink.bytes.Load(), time.Now()
	pause(ctx, window)
	bytes = b.sink.bytes.Load() - bytes
	rate := float64(bytes) * 8 / 1e6 / time.Since(begin).Seconds()
	if bytes == 0 && ctx.Err() == nil {
		return nil, fmt.Errorf("%d streams to %v stand still", n, b.to)
	}
	return []float64{rate}, ctx.Err()
}

// send writes until the connection is shut down or stuck.
func send(fd int) {
	for buf := make([]byte, 1<<18); ; {
		if _, err := whole(unix.Write, fd, buf); err != nil {
			return
		}
	}
}
