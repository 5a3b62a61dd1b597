// Package succession passes the flows on from one balancer process to the next.
// It saves by which numbers and handles flows name services, VIPs and backends:
// beside the flows in the kernel, and in a file. As a source of the state it waits
// until the backends of the predecessor are back.
//
//	s := succession.New(succession.Config{Store: store, File: file, Fast: fast, Log: log})
//	found, err := s.Restore(settings, longest) // before the configuration writes the state
package succession

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/fastpath"
	"github.com/caplance/caplance/core/offload"
	"github.com/caplance/caplance/core/state"
)

// Source is the name of the predecessor as a source of the state.
const Source = "predecessor"

// Config is what a succession is made with.
type Config struct {
	Store *state.Store
	File  *state.File
	Fast  *offload.FastPath
	Log   *slog.Logger
}

// State is the target that keeps for a successor by which numbers the
// flows name things.
type State struct {
	Config
	encoder *state.Encoder // of Add
	changed chan struct{}  // capacity 1: there is something to write

	mu        sync.Mutex
	in        *fastpath.Balancer // where the kernel's copy is
	encoded   []byte             // what the file is to hold
	unwritten error              // what its last Write returned

	problem atomic.Pointer[string]
}

// New returns one that has nothing saved yet.
func New(cfg Config) *State { return &State{Config: cfg, changed: make(chan struct{}, 1)} }

func (s *State) String() string { return "saved state" }

// Add implements reconcile.Target.
func (s *State) Add(_ context.Context, was, want *core.Snapshot) error {
	kernel := s.Fast.Kernel()
	s.mu.Lock()
	defer s.mu.Unlock()
	if was != nil && was.Pools.SameMembers(want.Pools) && was.VIPs == want.VIPs && was.Services == want.Services && was.Complete == want.Complete && kernel == s.in {
		return nil
	}
	if s.encoder == nil {
		s.encoder = s.Store.Encoder()
	}
	data, err := s.encoder.Encode(want)
	if err != nil {
		return err
	}
	if kernel != nil {
		if err := kernel.SaveState(data); err != nil {
			return err
		}
	}
	s.in = kernel
	s.encoded, s.unwritten = data, s.File.Write(data) // a full disk stops nothing
	select {
	case s.changed <- struct{}{}:
	default:
	}
	return nil
}

// Prune implements reconcile.Target.
func (s *State) Prune(context.Context, *core.Snapshot, *core.Snapshot) error { return nil }

// Verify implements reconcile.Target.
func (s *State) Verify(context.Context, *core.Snapshot) error {
	if why := s.Warning(); why != "" {
		return errors.New(why)
	}
	return nil
}

// restFactor is how many times as long as the last write took the next one waits: a
// storm of changes gets a small part of the disk.
const restFactor = 10

// Run brings the state to the disk, and notes there that this process lives.
func (s *State) Run(ctx context.Context) error {
	alive := time.NewTicker(time.Second)
	defer alive.Stop()
	for {
		begin := time.Now()
		s.sync()
		rest := time.NewTimer(min(restFactor*time.Since(begin), time.Second))
		select {
		case <-ctx.Done():
			rest.Stop()
			return nil
		case <-rest.C:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.changed:
		case <-alive.C:
		}
	}
}

func (s *State) sync() {
	s.mu.Lock()
	gone := !s.File.There()
	if gone {
		s.Log.Warn("the saved state was gone: written again")
	}
	if gone || s.unwritten != nil { // there may be room now
		s.unwritten = s.File.Rewrite(s.encoded)
	}
	err := s.unwritten
	s.mu.Unlock()
	err = errors.Join(err, s.File.Sync(), s.File.Alive())
	var why string
	if err != nil {
		why = fmt.Sprintf("state not saved: a restart on the datapath type userspace may lose flows: %v", err)
	}
	if was := s.problem.Swap(&why); why != "" && (was == nil || *was != why) {
		s.Log.Warn(why)
	}
}

// Warning returns why the state could not be saved, "" if it could.
func (s *State) Warning() string {
	if why := s.problem.Load(); why != nil {
		return *why
	}
	return ""
}
