package daemon

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/plugins/workbench/record"
)

// takeEvery is how often the recorders are emptied: they hold what comes in
// that time at 400 000 flows/s.
const takeEvery = 20 * time.Millisecond

// Record implements control.Recorder. A service is recorded once at a time.
func (s *Server) Record(ctx context.Context, service string, picks int, w io.Writer) error {
	sp, err := s.policyOf(service)
	if err != nil {
		return err
	}
	if !sp.recording.TryLock() {
		return fmt.Errorf("service %q is being recorded already: end that first", service)
	}
	defer sp.recording.Unlock()
	sp.mu.Lock()
	header := record.Header{
		Service: service, Policy: sp.current.spec, Config: sp.current.config,
		Workers: len(sp.schedulers), Seed: sp.svc.Seed, Begun: time.Now(),
	}
	sp.mu.Unlock()
	out, err := record.NewWriter(w, header)
	if err != nil {
		return err
	}
	recorders := make([]*host.Recorder, len(sp.schedulers))
	for i, sched := range sp.schedulers {
		recorders[i] = host.NewRecorder()
		sched.SetRecorder(recorders[i])
		defer sched.SetRecorder(nil)
	}
	s.log.Info("recording", "service", service, "picks", picks)
	tick := time.NewTicker(takeEvery)
	defer tick.Stop()
	for picks == 0 || out.Flows() < uint64(picks) {
		select {
		case <-ctx.Done():
			return out.Close()
		case <-tick.C:
		}
		for i, r := range recorders {
			take(out, i, r, picks)
		}
		if err := out.Flush(); err != nil {
			return err // the client hung up
		}
	}
	return out.Close()
}

// take writes what a worker's recorder has, up to so many picks.
func take(out *record.Writer, worker int, r *host.Recorder, picks int) {
	lost := r.Take(func(seen *host.Seen) {
		switch {
		case picks > 0 && out.Flows() >= uint64(picks):
		case seen.Ended:
			out.End(worker, &seen.End)
		case seen.Pool != nil:
			out.Pick(worker, seen.Pool, &seen.Flow, seen.Index, seen.By)
		}
	})
	out.Lost(lost)
}
