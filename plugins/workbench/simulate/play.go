package simulate

import (
	"context"
	"fmt"
	"math"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/workbench/trial"
)

// play lets the flows come, one after the other.
func (s *simulation) play() error {
	n := s.opt.Workload.N
	flows := s.opt.Workload.Flows(s.opt.Seed)
	step, rng := length/float64(n), flows.Rand()
	var refreshed, ticked uint64
	sample, events := 0, s.opt.Events
	for i := range n {
		s.now = uint64(float64(i) * step)
		for len(events) > 0 && events[0].At <= float64(i)/float64(n) {
			if err := s.event(events[0]); err != nil {
				return err
			}
			events = events[1:]
		}
		s.release()
		if s.now-refreshed >= uint64(core.RefreshAfter(len(s.pool.Members))) {
			s.refresh(float64(s.now - refreshed))
			refreshed = s.now
		}
		if s.now-ticked >= second {
			ticked = s.now
			for _, w := range s.worker {
				w.Tick(s.now)
			}
		}
		for ; sample*n <= i*samples; sample++ {
			s.sample()
		}
		f := flows.Next()
		f.Now = s.now
		if err := s.schedule(&f, trial.Pareto(rng, lengthExponent, shortest, longest), i); err != nil {
			return err
		}
		if i%(1<<14) == 0 {
			if s.opt.Progress != nil {
				s.opt.Progress(i, n)
			}
			if s.ctx.Err() != nil {
				return fmt.Errorf("simulation stopped after %d flows: %w", i, context.Cause(s.ctx))
			}
		}
	}
	for _, e := range events { // at 100 %
		if err := s.event(e); err != nil {
			return err
		}
	}
	return nil
}

// schedule has a worker pick for a flow that lasts for so many ns.
func (s *simulation) schedule(f *core.NewFlow, lasts float64, i int) error {
	w := core.Mix(f.Hash) % uint64(len(s.worker)) // a flow's packets are all in one queue
	index, by := s.worker[w].Pick(f)
	if err := s.worker[w].Broken(); err != nil {
		return fmt.Errorf("flow %d, after %s: %w", i+1, seconds(s.now), err)
	}
	s.result.Picks[by]++
	if index < 0 {
		return nil
	}
	c := s.tallies[s.pool.Members[index].Name]
	c.Flows++
	s.came++
	c.active++
	c.PeakOpen = max(c.PeakOpen, c.active)
	packets := 4 + math.Sqrt(lasts/1e7) // long flows send less per second
	c.perNS += packets / lasts
	s.open.push(end{at: s.now + uint64(lasts), tally: c, handle: s.pool.Members[index].Handle, worker: int(w), packets: packets, lasts: lasts})
	return nil
}

// release ends the flows that are over.
func (s *simulation) release() {
	for len(s.open) > 0 && s.open[0].at <= s.now {
		s.finished(s.open.pop())
	}
}

func (s *simulation) finished(e end) {
	e.tally.active--
	e.tally.perNS -= e.packets / e.lasts
	s.worker[e.worker].Ended(&core.FlowEnd{
		Backend: e.handle, Packets: uint64(e.packets), Bytes: uint64(e.packets * bytesPerPacket), Duration: uint64(e.lasts),
	})
}

const bytesPerPacket = 600

// refresh tells the workers what all of them have counted.
func (s *simulation) refresh(passed float64) {
	n := len(s.pool.Members)
	active, packets, bytes := make([]uint32, n), make([]uint64, n), make([]uint64, n)
	for i := range s.pool.Members {
		c := s.tallies[s.pool.Members[i].Name]
		c.packets += c.perNS * passed
		c.bytes = c.packets * bytesPerPacket
		active[i], packets[i], bytes[i] = uint32(c.active), uint64(max(c.packets, 0)), uint64(max(c.bytes, 0))
	}
	for _, w := range s.worker {
		w.Refresh(active, packets, bytes)
	}
}
