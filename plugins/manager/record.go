package manager

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/plugins/recording"
)

// takeEvery is how often the recorders are emptied: they hold what comes in
// that time at 400 000 flows/s.
const takeEvery = 20 * time.Millisecond

// Record writes what a service's policy sees and answers to w, until so many
// picks are recorded (0: no end) or ctx ends. A service is recorded once at a
// time.
func (m *Manager) Record(ctx context.Context, service string, picks int, w io.Writer) error {
	sp, err := m.find(service)
	if err != nil {
		return err
	}
	if !sp.recording.TryLock() {
		return fmt.Errorf("service %q is being recorded already: end that first", service)
	}
	defer sp.recording.Unlock()
	schedulers := sp.all()
	sp.mu.Lock()
	header := recording.Header{
		Service: service, Policy: sp.current.spec, Config: sp.current.config,
		Workers: len(schedulers), Seed: sp.seed, Begun: time.Now(),
	}
	sp.mu.Unlock()
	out, err := recording.NewWriter(w, header)
	if err != nil {
		return err
	}
	recorders := make([]*host.Recorder, len(schedulers))
	for i, sched := range schedulers {
		recorders[i] = host.NewRecorder()
		sched.SetRecorder(recorders[i])
		defer sched.SetRecorder(nil)
	}
	m.cfg.Log.Info("recording", "service", service, "picks", picks)
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
func take(out *recording.Writer, worker int, r *host.Recorder, picks int) {
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
