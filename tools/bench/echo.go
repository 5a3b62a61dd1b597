package main

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caplance/caplance/e2e/topology"
	"golang.org/x/sys/unix"
)

// echo sends back what comes to a host's echoPort: one thread for all
// connections, which end when the client ends them.
type echo struct {
	poll, listener int
	stopped        atomic.Bool
	done           sync.WaitGroup
}

func newEcho(h *topology.Host) (e *echo, err error) {
	e = &echo{}
	if err := h.Do(func() (err error) {
		e.listener, err = listen(unix.SOCK_STREAM, echoPort, glance)
		return err
	}); err != nil {
		return nil, err
	}
	err = unix.SetNonblock(e.listener, true)
	if err == nil {
		err = unix.SetsockoptInt(e.listener, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // and what it accepts
	}
	if err == nil {
		e.poll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	}
	if err == nil {
		err = e.watch(e.listener)
	}
	if err != nil {
		unix.Close(e.listener)
		return nil, fmt.Errorf("echo: %w", err)
	}
	e.done.Go(e.run)
	return e, nil
}

func (e *echo) close() {
	e.stopped.Store(true)
	e.done.Wait()
}

func (e *echo) watch(fd int) error {
	return unix.EpollCtl(e.poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

func (e *echo) run() {
	defer backendEnd.pin()()
	defer unix.Close(e.poll)
	defer unix.Close(e.listener)
	events := make([]unix.EpollEvent, batch)
	for !e.stopped.Load() {
		n, err := unix.EpollWait(e.poll, events, int(glance/time.Millisecond))
		if err != nil && !again(err) {
			return
		}
		for _, ev := range events[:max(n, 0)] {
			if fd := int(ev.Fd); fd == e.listener {
				e.accept()
			} else {
				e.answer(fd)
			}
		}
	}
}

func (e *echo) accept() {
	for {
		fd, _, err := unix.Accept4(e.listener, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if err != nil {
			return
		}
		if err := e.watch(fd); err != nil {
			unix.Close(fd)
		}
	}
}

func (e *echo) answer(fd int) {
	var buf [64]byte
	n, err := unix.Read(fd, buf[:])
	if n > 0 {
		_, err = unix.Write(fd, buf[:n])
	}
	if n == 0 || err != nil && !again(err) {
		unix.Close(fd) // leaves the poll, too
	}
}
