package netmon

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	nl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	coalesce     = 20 * time.Millisecond // a burst of events is one change
	askMissing   = time.Second           // for MACs that are not known
	confirmMACs  = 10 * time.Second      // well before they go stale (gc_stale_time, 60 s)
	refreshPaths = 30 * time.Second      // should an event have been missed

	receiveBuffer = 8 << 20 // bytes; an event is at most 2 KB long
)

var groups = []uint32{
	unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
}

// Monitor observes the network namespace that it was opened in. Run is called
// once; the other methods may be called by anyone at any time.
type Monitor struct {
	log    *slog.Logger
	events *nl.Conn
	handle *netlink.Handle
	table  table // Run's

	network atomic.Pointer[Network]
	paths   atomic.Pointer[map[netip.Addr]Path]
	wake    chan struct{}

	mu      sync.Mutex
	watched []netip.Addr
	changed chan struct{} // closed and replaced at every change

	Overruns atomic.Uint64 // events were lost and everything was read anew
}

// Open subscribes in the network namespace of the calling thread and reads the
// network there. Until Run is called nothing changes.
func Open(log *slog.Logger) (*Monitor, error) { return open(log, receiveBuffer) }

func open(log *slog.Logger, buffer int) (_ *Monitor, err error) {
	m := &Monitor{log: log, wake: make(chan struct{}, 1), changed: make(chan struct{})}
	m.table.epochs = map[int]uint64{}
	m.paths.Store(&map[netip.Addr]Path{})
	if m.events, err = nl.Dial(unix.NETLINK_ROUTE, nil); err != nil {
		return nil, fmt.Errorf("rtnetlink: %w", err)
	}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	if err := m.events.SetReadBuffer(buffer); err != nil {
		return nil, fmt.Errorf("rtnetlink: receive buffer: %w", err)
	}
	for _, g := range groups {
		if err := m.events.JoinGroup(g); err != nil {
			return nil, fmt.Errorf("rtnetlink: subscribe to group %d: %w", g, err)
		}
	}
	if m.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("rtnetlink: %w", err)
	}
	if err := m.table.read(m.handle); err != nil {
		return nil, err
	}
	m.network.Store(m.table.snapshot())
	return m, nil
}

// Close releases the sockets. Run must have returned.
func (m *Monitor) Close() {
	m.events.Close()
	if m.handle != nil {
		m.handle.Close()
	}
}

// Network returns the newest links and addresses.
func (m *Monitor) Network() *Network { return m.network.Load() }

// Changed returns a channel that is closed at the next change of the network or
// of a path. Changes within 20 ms are one.
func (m *Monitor) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

func (m *Monitor) broadcast() {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.changed)
	m.changed = make(chan struct{})
}

// receive hands events on until ctx ends; nil stands for lost ones.
func (m *Monitor) receive(ctx context.Context, out chan<- []nl.Message) error {
	defer context.AfterFunc(ctx, func() { _ = m.events.SetReadDeadline(time.Unix(1, 0)) })()
	for {
		msgs, err := m.events.Receive()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case errors.Is(err, unix.ENOBUFS):
			m.Overruns.Add(1)
			msgs = nil
		case err != nil:
			return fmt.Errorf("rtnetlink events: %w", err)
		}
		select {
		case out <- msgs:
		case <-ctx.Done():
			return nil
		}
	}
}

// apply takes events.
func (m *Monitor) apply(msgs []nl.Message) (s stale) {
	if msgs == nil {
		return stale{all: true}
	}
	for _, msg := range msgs {
		one, err := m.table.apply(msg)
		if err != nil {
			m.log.Warn("rtnetlink event not understood", "err", err)
			one = stale{all: true}
		}
		s = s.or(one)
	}
	return s
}

// update publishes what has changed.
func (m *Monitor) update(s stale) error {
	if s.all {
		if err := m.table.read(m.handle); err != nil {
			return err
		}
		s = stale{network: true, paths: true}
	}
	changed := false
	if s.network {
		if n := m.table.snapshot(); !n.equal(m.Network()) {
			m.network.Store(n)
			changed = true
		}
	}
	if m.updatePaths(s) || changed {
		m.broadcast()
	}
	return nil
}

func nativeUint32(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }
