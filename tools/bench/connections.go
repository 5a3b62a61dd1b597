package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// atOnce is how many connections the clients have under way.
const atOnce = 16

// newConnections returns how many connections a second are opened, used for one
// byte each way and closed, and the time each takes from its SYN to the
// answer, µs: 50th and 99th percentile.
func newConnections(ctx context.Context, b *testbed) (values []float64, err error) {
	err = b.Client.Do(func() error {
		defer clientEnd.pin()()
		c, err := newClients(netip.AddrPortFrom(b.to, echoPort))
		if err != nil {
			return err
		}
		defer c.close()
		if err := c.run(ctx, warmUp); err != nil {
			return err
		}
		c.times, c.failed = c.times[:0], 0
		begin := time.Now()
		if err := c.run(ctx, window); err != nil {
			return err
		}
		if c.failed*1000 > len(c.times) {
			return fmt.Errorf("%d connections to %v failed, %d did not: %w", c.failed, b.to, len(c.times), c.err)
		}
		rate := float64(len(c.times)) / time.Since(begin).Seconds()
		values = append([]float64{rate}, percentiles(c.times, 0.5, 0.99)...)
		return nil
	})
	return values, errors.Join(err, ctx.Err())
}

// clients are atOnce clients on one thread, each with a connection at a time.
type clients struct {
	poll   int
	to     unix.Sockaddr
	conns  [atOnce]conn
	times  []time.Duration // from SYN to answer
	failed int
	err    error // of the last that failed
}

type conn struct {
	fd    int
	begin time.Time
	asked bool
}

func newClients(to netip.AddrPort) (c *clients, err error) {
	c = &clients{to: sockaddr(to), times: make([]time.Duration, 0, 1<<16)}
	for i := range c.conns {
		c.conns[i].fd = -1
	}
	if c.poll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("clients: %w", err)
	}
	for i := range c.conns {
		if err := c.connect(i); err != nil {
			c.close()
			return nil, err
		}
	}
	return c, nil
}

func (c *clients) close() {
	for i := range c.conns {
		if c.conns[i].fd >= 0 {
			unix.Close(c.conns[i].fd)
		}
	}
	unix.Close(c.poll)
}

// connect starts the i-th client's next connection.
func (c *clients) connect(i int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	c.conns[i] = conn{fd: fd, begin: time.Now()}
	if err := unix.Connect(fd, c.to); err != nil && err != unix.EINPROGRESS {
		return fmt.Errorf("client: connect: %w", err)
	}
	const once = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLET&0xffffffff
	if err := unix.EpollCtl(c.poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: once, Fd: int32(i)}); err != nil {
		return fmt.Errorf("client: %w", err)
	}
	return nil
}

// run serves the clients for a time.
func (c *clients) run(ctx context.Context, d time.Duration) error {
	var events [atOnce]unix.EpollEvent
	for end := time.Now().Add(d); time.Now().Before(end) && ctx.Err() == nil; {
		n, err := unix.EpollWait(c.poll, events[:], int(glance/time.Millisecond))
		if err != nil && !again(err) {
			return fmt.Errorf("clients: %w", err)
		}
		for _, ev := range events[:max(n, 0)] {
			if err := c.step(int(ev.Fd)); err != nil {
				return err
			}
		}
	}
	return nil
}

// step goes on with the i-th client: what is connected asks, what has its
// answer begins anew.
func (c *clients) step(i int) error {
	k := &c.conns[i]
	buf := [1]byte{'?'}
	var n int
	var err error
	if !k.asked {
		if n, err = unix.Write(k.fd, buf[:]); n == 1 {
			k.asked = true
			return nil
		}
	} else if n, err = unix.Read(k.fd, buf[:]); n == 1 {
		c.times = append(c.times, time.Since(k.begin))
	}
	switch {
	case n == 1:
	case err == nil:
		c.failed, c.err = c.failed+1, errors.New("closed without an answer")
	case again(err):
		return nil
	default:
		c.failed, c.err = c.failed+1, err
	}
	unix.Close(k.fd)
	return c.connect(i)
}
