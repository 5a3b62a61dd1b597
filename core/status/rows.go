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
	"github.com/caplance/caplance/core/counters"
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
		_, down := b.WhyDown(pool.Service.Name)
		row.Down = down || b.Own == core.Unhealthy
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
	m.Fast.Count()
	withdrawn := snap.Withdrawn()
	for _, svc := range snap.Services.List {
		pool := snap.Pools.Of(svc.ID)
		st, _ := m.Manager.Stats(svc.Name)
		row := api.ServiceRow{
			Name: svc.Name, VIP: svc.VIP, Protocol: svc.Protocol(), Ports: svc.PortList(), Mode: svc.Mode.String(),
			Policy: st.Policy, Backends: len(pool.Members), Eligible: pool.Eligible, Least: svc.MinBackends, Panic: pool.Panic,
			Withdrawn: withdrawn[svc.VIP] != nil, Leaving: svc.Leaving, Picks: map[string]uint64{},
			Failures: st.Failures, Quarantined: st.Quarantined, LastError: st.LastError, Flows: m.OfService(svc.ID),
		}
		counted, kernel := m.Counters.Service(svc), m.Fast.Refused(svc)
		addPicks(row.Picks, st.Picks[:], &counted)
		row.Denied, row.Limited = counted.Denied+kernel.Denied, counted.Limited+kernel.Limited
		row.PickTime = histogram(&counted.Picks)
		rows = append(rows, row)
	}
	return rows
}

// addPicks adds who placed a service's flows: the workers' schedulers, and the kernel
// itself, as far as it was asked.
func addPicks(picks map[string]uint64, scheduled []uint64, kernel *counters.ServiceTotal) {
	for by, n := range scheduled {
		picks[core.Decision(by).String()] += n
	}
	picks[core.ByTable.String()] += kernel.ByTable
	picks[core.ByFallback.String()] += kernel.ByFallback
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
	st.Kernel = m.kernel()
	m.Fast.Counted(st.Counters)
	m.Counted(st.Counters)
	m.Capture(st.Counters)
	queues := kernelQueues()
	for _, w := range m.Workers() {
		q := queues[w.Queue]
		st.Queues = append(st.Queues, api.QueueRow{
			Queue: w.Queue, Packets: w.Loop.Packets.Load(), Batches: w.Loop.Batches.Load(),
			Waiting: q.waiting, Length: m.Store.Snapshot().Settings.QueueLength, QueueDrops: q.queueDrops, SocketDrops: q.socketDrops,
		})
	}
	return st
}

// kernel returns how the fast path's tables are, nil while it is off.
func (m *Model) kernel() *api.KernelRow {
	if m.Fast.Kernel() == nil {
		return nil
	}
	rounds := m.Fast.Collections()
	row := &api.KernelRow{Maps: []api.MapRow{}, Collections: histogram(&rounds)}
	for _, f := range m.Fast.Fills() {
		row.Maps = append(row.Maps, api.MapRow{Name: f.Map, Entries: f.Entries, Max: f.Max})
	}
	if at := m.Fast.CountedAt(); !at.IsZero() {
		row.Counted = &at
	}
	return row
}

// histogram returns a distribution as it is shown, nil if nobody counts.
func histogram(d *counters.Distribution) *api.Histogram {
	if d.Bounds == nil {
		return nil
	}
	h := &api.Histogram{Count: d.Count, Sum: d.Sum.Seconds()}
	for i, bound := range d.Bounds {
		h.Buckets = append(h.Buckets, api.Bucket{Bound: bound.Seconds(), Count: d.Counts[i]})
	}
	return h
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
	m.Fast.Count()
	for _, svc := range snap.Services.List {
		st, ok := m.Manager.Stats(svc.Name)
		if !ok {
			continue
		}
		row := policyRow(svc.Name, &st)
		counted := m.Counters.Service(svc)
		addPicks(row.Picks, nil, &counted)
		rows = append(rows, row)
	}
	return rows
}

func policyRow(service string, st *manager.Stats) api.PolicyRow {
	row := api.PolicyRow{
		Service: service, Policy: st.Spec, Since: st.Since, Previous: st.Previous,
		Picks: map[string]uint64{}, NoChoice: st.NoChoice, Failures: st.Failures, Causes: st.CausesByName(), Replaced: st.Replaced,
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
