package metrics

import (
	"slices"
	"strconv"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/api"
	"github.com/prometheus/client_golang/prometheus"
)

// collector asks the source when Prometheus does: what is gone has no series any more.
type collector struct{ Source }

// Describe implements prometheus.Collector.
func (collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range described {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	s := sink(out)
	s.status(c.Status())
	s.stats(c.Stats())
	for _, t := range c.Certificates() {
		s.gauge(expiry, unix(t.Until), t.File, t.Fingerprint, map[bool]string{false: "own", true: "authority"}[t.Authority])
	}
	for _, session := range c.Sessions() {
		if session.Expires != nil {
			s.gauge(sessionExpiry, unix(*session.Expires), session.Backend)
		}
		s.gauge(leaseAge, max(time.Since(session.Heard).Seconds(), 0), session.Backend)
		s.gauge(leaseLength, session.Lease, session.Backend)
	}
	for _, row := range c.Services() {
		s.service(&row)
	}
	for _, row := range c.Policies() {
		s.policy(&row)
	}
	rows, _ := c.Backends(api.BackendFilter{}) // which everything passes
	for i := range rows {
		s.backend(&rows[i])
	}
}

// sink takes samples.
type sink chan<- prometheus.Metric

func (s sink) gauge(d *prometheus.Desc, v float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (s sink) flag(d *prometheus.Desc, on bool, labels ...string) {
	s.gauge(d, map[bool]float64{true: 1}[on], labels...)
}

func (s sink) counter(d *prometheus.Desc, v uint64, labels ...string) {
	s <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

// histogram takes one, unless nobody counts.
func (s sink) histogram(d *prometheus.Desc, h *api.Histogram, labels ...string) {
	if h == nil {
		return
	}
	buckets := make(map[float64]uint64, len(h.Buckets))
	for _, b := range h.Buckets {
		buckets[b.Bound] = b.Count
	}
	s <- prometheus.MustNewConstHistogram(d, h.Count, h.Sum, buckets, labels...)
}

func (s sink) status(st api.StatusReport) {
	s.flag(healthy, st.Healthy)
	s.gauge(warnings, float64(len(st.Warnings)))
	s.gauge(revision, float64(st.Revision))
	for _, t := range st.Targets {
		s.flag(targetUp, t.Error == "", t.Name)
		s.gauge(targetRevision, float64(t.Revision), t.Name)
		s.gauge(targetRetries, float64(t.Retries), t.Name)
		s.counter(targetDrifts, t.Drifts, t.Name)
	}
}

// forwardedBytes is the one counter that is no event.
const forwardedBytes = "forwarded_bytes"

func (s sink) stats(st api.Stats) {
	s.gauge(info, 1, st.Version, string(st.Datapath.Type), st.Capture)
	s.gauge(flows, float64(st.Flows))
	s.gauge(capacity, float64(st.Capacity))
	for event, n := range st.Counters {
		if event == forwardedBytes {
			s.counter(forwarded, n)
			continue
		}
		s.counter(events, n, event)
	}
	for _, q := range st.Queues {
		name := strconv.Itoa(int(q.Queue))
		s.counter(queued, q.Packets, name)
		s.counter(batches, q.Batches, name)
		s.gauge(waiting, float64(q.Waiting), name)
		s.gauge(queueCapacity, float64(q.Length), name)
		s.counter(dropped, q.QueueDrops, name, "queue")
		s.counter(dropped, q.SocketDrops, name, "socket")
	}
	k := st.Kernel
	if k == nil {
		return
	}
	for _, m := range k.Maps {
		s.gauge(mapEntries, float64(m.Entries), m.Name)
		s.gauge(mapMax, float64(m.Max), m.Name)
	}
	s.histogram(collections, k.Collections)
	if k.Counted != nil {
		s.gauge(collected, unix(*k.Counted))
	}
}

func (s sink) service(row *api.ServiceRow) {
	s.gauge(backends, float64(row.Backends), row.Name)
	if !row.Leaving { // nobody is to be there any more
		s.gauge(eligible, float64(row.Eligible), row.Name)
		s.gauge(least, float64(row.Least), row.Name)
	}
	s.flag(withdrawn, row.Withdrawn, row.Name)
	s.flag(inPanic, row.Panic, row.Name)
	s.gauge(serviceFlows, float64(row.Flows), row.Name)
	s.counter(refused, row.Denied, row.Name, "denied")
	s.counter(refused, row.Limited, row.Name, "limited")
	for by, n := range row.Picks {
		s.counter(picks, n, row.Name, by)
	}
	s.histogram(pickTime, row.PickTime, row.Name)
}

func (s sink) policy(row *api.PolicyRow) {
	s.gauge(policy, 1, row.Service, row.Policy)
	for cause, n := range row.Causes {
		s.counter(failures, n, row.Service, cause)
	}
	s.counter(noChoice, row.NoChoice, row.Service)
	s.counter(replaced, row.Replaced, row.Service)
	s.flag(quarantined, row.Quarantined, row.Service)
	if sh := row.Shadow; sh != nil {
		s.gauge(shadowAsked, float64(sh.Asked), row.Service)
		if sh.Asked > 0 {
			s.gauge(shadowAgreed, float64(sh.Agreed)/float64(sh.Asked), row.Service)
		}
	}
	t := row.Table
	if t == nil {
		return
	}
	s.flag(tableFailing, t.Error != "", row.Service)
	if !t.Built.IsZero() {
		s.gauge(tableBuilt, unix(t.Built), row.Service)
		s.gauge(tableTook, t.Took, row.Service)
		s.gauge(disruption, t.Disruption, row.Service)
	}
}

func (s sink) backend(b *api.BackendRow) {
	s.gauge(backendState, 1, b.Service, b.Name, b.State.String())
	for i, o := range b.Admin {
		same := func(p api.AdminRow) bool { return p.Verb == o.Verb }
		if !slices.ContainsFunc(b.Admin[:i], same) { // one of the backend, and one in a service, are one series
			s.gauge(backendAdmin, 1, b.Service, b.Name, o.Verb)
		}
	}
	if b.Absent() || b.State == core.Drained || b.State == core.Disabled { // in no pool: its counters have ended
		return
	}
	s.flag(backendCheck, !b.Down, b.Service, b.Name)
	if b.RTT > 0 {
		s.gauge(backendRTT, b.RTT, b.Service, b.Name)
	}
	if b.Load != nil {
		s.gauge(backendLoad, *b.Load/100, b.Service, b.Name)
	}
	s.gauge(backendSince, unix(b.Since), b.Service, b.Name)
	s.gauge(backendWeight, float64(b.Weight), b.Service, b.Name)
	s.gauge(backendFlows, float64(b.Flows), b.Service, b.Name)
	s.counter(backendPlaced, b.FlowsTotal, b.Service, b.Name)
	s.counter(backendPackets, b.Packets, b.Service, b.Name)
	s.counter(backendBytes, b.Bytes, b.Service, b.Name)
}

// unix returns a time as Unix time, with its fraction.
func unix(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
