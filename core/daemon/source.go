package daemon

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/control"
)

// Backends implements control.Source.
func (s *Server) Backends() []control.BackendRow {
	rows := []control.BackendRow{}
	for _, svc := range s.cfg.Services {
		first, total := len(rows), uint64(0)
		for _, m := range s.pools.out.Of(svc.Index).Members {
			t := s.ledger.Total(svc.Index, m.Handle)
			total += t.Flows
			rows = append(rows, control.BackendRow{
				Service: svc.Name, Name: m.Name, Addr: m.Addr, Mode: m.Mode.String(), State: m.State, Weight: m.Weight, Since: m.Since,
				Flows: t.Active, FlowsTotal: t.Flows, Packets: t.Packets, Bytes: t.Bytes,
			})
		}
		for i := first; i < len(rows); i++ {
			rows[i].Share = float64(rows[i].FlowsTotal) / float64(max(total, 1))
		}
	}
	return rows
}

// Services implements control.Source.
func (s *Server) Services() []control.ServiceRow {
	rows := []control.ServiceRow{}
	for _, svc := range s.cfg.Services {
		pool, st := s.pools.out.Of(svc.Index), s.policies.services[svc.Index].stats()
		row := control.ServiceRow{
			Name: svc.Name, VIP: svc.VIP, Protocol: svc.Protocol(), Ports: svc.PortList(), Mode: svc.Mode.String(),
			Policy: st.Policy, Backends: len(pool.Members), Eligible: pool.Eligible, Picks: map[string]uint64{},
			Failures: st.Failures, Quarantined: st.Quarantined, LastError: st.LastError,
		}
		for _, m := range pool.Members {
			row.Flows += s.ledger.Total(svc.Index, m.Handle).Active
		}
		s.addPicks(row.Picks, svc.Index, st.Picks[:])
		rows = append(rows, row)
	}
	return rows
}

// addPicks tells who placed a service's flows: the workers' schedulers, and the
// kernel itself.
func (s *Server) addPicks(picks map[string]uint64, service uint16, scheduled []uint64) {
	for by, n := range scheduled {
		picks[core.Decision(by).String()] += n
	}
	if s.kernel == nil {
		return
	}
	for _, m := range s.pools.out.Of(service).Members {
		sum := s.kernel.Total(service, m.Handle)
		picks[core.ByTable.String()] += sum.ByTable
		picks[core.ByFallback.String()] += sum.ByFallback
	}
}

// Stats implements control.Source.
func (s *Server) Stats() control.Stats {
	table := s.ledger.Table()
	st := control.Stats{
		Uptime: time.Since(s.started).Seconds(), Capture: string(s.method), Rung: s.rung,
		Flows: table.Flows, Capacity: table.Capacity,
		Counters: map[string]uint64{"flows_evicted": table.Evicted, "flows_refused": table.Refused},
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		st.Version = info.Main.Version
	}
	if s.kernel != nil {
		s.kernel.Counters(st.Counters)
	}
	kernel := kernelQueues()
	for _, w := range s.workers {
		k := kernel[w.queue]
		st.Queues = append(st.Queues, control.QueueRow{
			Queue: w.queue, Packets: w.loop.Packets.Load(), Batches: w.loop.Batches.Load(),
			Waiting: k.waiting, QueueDrops: k.queueDrops, SocketDrops: k.socketDrops,
		})
		w.path.Counts.AddTo(st.Counters)
		st.Counters["forwarded"] += w.sender.Packets.Load()
		st.Counters["forwarded_bytes"] += w.sender.Bytes.Load()
		st.Counters["tunnel_too_long"] += w.sender.TooLong.Load()
		st.Counters["tunnel_unreachable"] += w.sender.Unreachable.Load()
		st.Counters["tunnel_busy"] += w.sender.Busy.Load()
		st.Counters["tunnel_failed"] += w.sender.Failed.Load()
		st.Counters["queue_errors"] += w.loop.Overruns.Load()
	}
	return st
}

type kernelQueue struct{ waiting, queueDrops, socketDrops uint64 }

// kernelQueues reads the kernel's view of the queues: number, port, waiting,
// copy mode, copy range, queue drops, socket drops, last id, 1
// (net/netfilter/nfnetlink_queue.c, seq_show).
func kernelQueues() map[uint16]kernelQueue {
	out := map[uint16]kernelQueue{}
	f, err := os.Open("/proc/net/netfilter/nfnetlink_queue")
	if err != nil {
		return out
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		var n uint16
		var k kernelQueue
		var port, mode, size uint64
		if _, err := fmt.Sscan(sc.Text(), &n, &port, &k.waiting, &mode, &size, &k.queueDrops, &k.socketDrops); err == nil {
			out[n] = k
		}
	}
	return out
}

// Policies implements control.Policies.
func (s *Server) Policies() []control.PolicyRow {
	rows := []control.PolicyRow{}
	for _, sp := range s.policies.services {
		row := sp.row()
		s.addPicks(row.Picks, sp.svc.Index, nil)
		rows = append(rows, row)
	}
	return rows
}

func (sp *servicePolicy) row() control.PolicyRow {
	st := sp.stats()
	sp.mu.Lock()
	defer sp.mu.Unlock()
	row := control.PolicyRow{
		Service: sp.svc.Name, Policy: sp.current.spec, Since: sp.current.since,
		Picks: map[string]uint64{}, NoChoice: st.NoChoice, Failures: st.Failures, Replaced: st.Replaced,
		Quarantined: st.Quarantined, LastError: st.LastError,
	}
	if sp.previous != nil {
		row.Previous = sp.previous.spec
	}
	for by, n := range st.Picks {
		row.Picks[core.Decision(by).String()] = n
	}
	if len(st.Metrics) > 0 {
		row.Metrics = map[string]uint64{}
		for _, m := range st.Metrics {
			row.Metrics[m.Name] = m.Value
		}
	}
	if sh, ok := sp.shadowStats(); ok {
		row.Shadow = &control.ShadowRow{Policy: sh.Policy, Asked: sh.Asked, Agreed: sh.Agreed, Would: sh.Would}
	}
	if t := sp.table; sp.current.policy.HasTable() {
		row.Table = &control.TableRow{Built: t.built, Took: t.took.Seconds(), Disruption: t.disruption}
		if t.err != nil {
			row.Table.Error = t.err.Error()
		}
	}
	return row
}
