package status

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/fastpath"
	"github.com/caplance/caplance/plugins/manager"
)

// catchUp gives the machine a moment to be as the state says, so that what is
// shown holds.
func (m *Model) catchUp() {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_ = m.Wait(ctx, m.Store.Snapshot().Revision)
}

// Backends returns the backends of every service that pass the filter.
func (m *Model) Backends(f api.BackendFilter) ([]api.BackendRow, error) {
	m.catchUp()
	defer m.Fast.Hold()()
	if err := m.known(f); err != nil {
		return nil, err
	}
	rows := []api.BackendRow{}
	snap := m.Store.Snapshot()
	for _, svc := range snap.Services.List {
		if f.Service == "" || f.Service == svc.Name {
			rows = m.appendBackends(rows, snap.Pools.Of(svc.ID), f.Backend)
		}
	}
	return m.withOrders(rows, snap, f), nil
}

// missing reports whether a backend is neither in a pool nor held out of it by the
// operator: it is not registered.
func missing(p *core.Pool, name string) bool {
	return p.Named(name) == nil && !slices.ContainsFunc(p.Out, func(m core.Member) bool { return m.Name == name })
}

// appendBackends adds the backends of one service, or the one of a name.
func (m *Model) appendBackends(rows []api.BackendRow, pool *core.Pool, name string) []api.BackendRow {
	if name != "" && pool.Named(name) == nil && !slices.Contains(pool.Service.Expected, name) {
		return rows
	}
	first, total := len(rows), uint64(0)
	for i := range pool.Members {
		b := &pool.Members[i]
		t := m.Counters.Total(b.Handle)
		total += t.Flows
		if name != "" && name != b.Name {
			continue
		}
		row := backendRow(pool.Service, b)
		row.Flows, row.FlowsTotal, row.Packets, row.Bytes = t.Active, t.Flows, t.Packets, t.Bytes
		row.RTT = b.Vitals.RTT().Seconds()
		if load := b.Vitals.Load(); load != core.UnknownLoad {
			percent := float64(load) / 10
			row.Load = &percent
		}
		rows = append(rows, row)
	}
	for _, expected := range pool.Service.Expected {
		if missing(pool, expected) && (name == "" || name == expected) {
			rows = append(rows, api.BackendRow{
				Service: pool.Service.Name, Name: expected, State: core.Missing, AgentState: core.Missing, Reason: "expected by the configuration, and not registered",
			})
		}
	}
	for i := first; i < len(rows); i++ {
		rows[i].Share = float64(rows[i].FlowsTotal) / float64(max(total, 1))
	}
	return rows
}

// Services returns every service.
func (m *Model) Services() []api.ServiceRow {
	m.catchUp()
	defer m.Fast.Hold()()
	rows := []api.ServiceRow{}
	snap := m.Store.Snapshot()
	sums, withdrawn := m.sums(), snap.Withdrawn()
	for _, svc := range snap.Services.List {
		pool := snap.Pools.Of(svc.ID)
		st, _ := m.Manager.Stats(svc.Name)
		row := api.ServiceRow{
			Name: svc.Name, VIP: svc.VIP, Protocol: svc.Protocol(), Ports: svc.PortList(), Mode: svc.Mode.String(),
			Policy: st.Policy, Backends: len(pool.Members), Eligible: pool.Eligible, Least: svc.MinBackends, Panic: pool.Panic,
			Withdrawn: withdrawn[svc.VIP] != nil, Picks: map[string]uint64{},
			Failures: st.Failures, Quarantined: st.Quarantined, LastError: st.LastError, Flows: m.OfService(svc.ID),
		}
		addPicks(row.Picks, pool, st.Picks[:], sums)
		refused := m.refused(svc.ID)
		row.Denied, row.Limited = refused.Denied, refused.Limited
		rows = append(rows, row)
	}
	return rows
}

// refused returns what the workers and the kernel have refused of a service.
func (m *Model) refused(id core.ServiceID) (r fastpath.Refusals) {
	if kernel := m.Fast.Kernel(); kernel != nil {
		r = kernel.Refusals(id)
	}
	denied, limited := m.Counters.Refused(id)
	r.Denied, r.Limited = r.Denied+denied, r.Limited+limited
	return r
}

// sums returns what the kernel did for each member, nil while the fast path is
// off.
func (m *Model) sums() *fastpath.Sums {
	kernel := m.Fast.Kernel()
	if kernel == nil {
		return nil
	}
	sums, err := kernel.Sums()
	if err != nil { // it is on its way off
		return nil
	}
	return sums
}

// addPicks adds who placed a service's flows: the workers' schedulers, and the
// kernel itself.
func addPicks(picks map[string]uint64, pool *core.Pool, scheduled []uint64, sums *fastpath.Sums) {
	for by, n := range scheduled {
		picks[core.Decision(by).String()] += n
	}
	if sums == nil {
		return
	}
	for i := range pool.Members {
		sum := sums.Of(pool.Members[i].Handle)
		picks[core.ByTable.String()] += sum.ByTable
		picks[core.ByFallback.String()] += sum.ByFallback
	}
}

// Stats returns the state of the balancer as a whole.
func (m *Model) Stats() api.Stats {
	defer m.Fast.Hold()()
	table := m.Counters.Table()
	kind, reason := m.Fast.Datapath()
	st := api.Stats{
		Uptime: time.Since(m.Started).Seconds(), Capture: m.Method(), Datapath: api.Datapath{Type: kind, Reason: reason},
		Flows: table.Flows, Capacity: table.Capacity,
		Counters: map[string]uint64{"flows_evicted": table.Evicted, "flows_refused": table.Refused},
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		st.Version = info.Main.Version
	}
	m.Fast.Counted(st.Counters)
	m.Gone(st.Counters)
	m.Capture(st.Counters)
	queues := kernelQueues()
	for _, w := range m.Workers() {
		q := queues[w.Queue]
		st.Queues = append(st.Queues, api.QueueRow{
			Queue: w.Queue, Packets: w.Loop.Packets.Load(), Batches: w.Loop.Batches.Load(),
			Waiting: q.waiting, QueueDrops: q.queueDrops, SocketDrops: q.socketDrops,
		})
		w.AddTo(st.Counters)
	}
	return st
}

// AddTo adds what a worker has counted to a map by name.
func (w *Worker) AddTo(m map[string]uint64) {
	w.Path.Counts.AddTo(m)
	m["forwarded"] += w.Sender.Packets.Load()
	m["forwarded_bytes"] += w.Sender.Bytes.Load()
	m["tunnel_too_long"] += w.Sender.TooLong.Load()
	m["tunnel_unreachable"] += w.Sender.Unreachable.Load()
	m["tunnel_busy"] += w.Sender.Busy.Load()
	m["tunnel_failed"] += w.Sender.Failed.Load()
	m["queue_errors"] += w.Loop.Overruns.Load()
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

// Policies returns how every service's policy does.
func (m *Model) Policies() []api.PolicyRow {
	defer m.Fast.Hold()()
	rows := []api.PolicyRow{}
	snap := m.Store.Snapshot()
	sums := m.sums()
	for _, svc := range snap.Services.List {
		st, ok := m.Manager.Stats(svc.Name)
		if !ok {
			continue
		}
		row := policyRow(svc.Name, &st)
		addPicks(row.Picks, snap.Pools.Of(svc.ID), nil, sums)
		rows = append(rows, row)
	}
	return rows
}

func policyRow(service string, st *manager.Stats) api.PolicyRow {
	row := api.PolicyRow{
		Service: service, Policy: st.Spec, Since: st.Since, Previous: st.Previous,
		Picks: map[string]uint64{}, NoChoice: st.NoChoice, Failures: st.Failures, Replaced: st.Replaced,
		Quarantined: st.Quarantined, LastError: st.LastError,
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
	if sh := st.Shadow; st.HasShadow {
		row.Shadow = &api.ShadowRow{Policy: sh.Policy, Asked: sh.Asked, Agreed: sh.Agreed, Would: sh.Would}
	}
	if t := st.Table; st.HasTable {
		row.Table = &api.TableRow{Built: t.Built, Took: t.Took.Seconds(), Disruption: t.Disruption}
		if t.Err != nil {
			row.Table.Error = t.Err.Error()
		}
	}
	return row
}
