package main

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/caplance/caplance/e2e/topology"
	"golang.org/x/sys/unix"
)

// sink swallows what comes to a host's discardPort and counts it.
type sink struct {
	bytes   atomic.Uint64 // by TCP
	packets atomic.Uint64 // by UDP
	stopped atomic.Bool
	done    sync.WaitGroup
}

// glance is how long a thread of the sink waits before it looks whether it is
// still wanted.
const glance = 100 * time.Millisecond

func newSink(h *topology.Host) (s *sink, err error) {
	var streams, datagrams int
	err = h.Do(func() (err error) {
		if streams, err = listen(unix.SOCK_STREAM, discardPort, glance); err != nil {
			return err
		}
		if datagrams, err = listen(unix.SOCK_DGRAM, discardPort, glance); err != nil {
			unix.Close(streams)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	s = &sink{}
	s.done.Go(func() { s.accept(streams) })
	s.done.Go(func() { s.receive(datagrams) })
	return s, nil
}

func (s *sink) close() {
	s.stopped.Store(true)
	s.done.Wait()
}

func (s *sink) accept(listener int) {
	defer unix.Close(listener)
	for !s.stopped.Load() {
		if fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC); err == nil {
			s.done.Go(func() { s.swallow(fd) })
		} else if !again(err) {
			return
		}
	}
}

// swallow reads a stream to its end. The timeout is the listener's.
func (s *sink) swallow(fd int) {
	defer unix.Close(fd)
	for buf := make([]byte, 1<<18); !s.stopped.Load(); {
		n, err := unix.Read(fd, buf)
		switch {
		case n > 0:
			s.bytes.Add(uint64(n))
		case !again(err):
			return
		}
	}
}

func (s *sink) receive(fd int) {
	defer unix.Close(fd)
	// What a receiver that waits for the processor would lose is not the
	// balancer's loss.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	for m := newMessages(2048); !s.stopped.Load(); {
		n, err := m.receive(fd)
		if err != nil && !again(err) {
			return
		}
		s.packets.Add(uint64(n))
	}
}
