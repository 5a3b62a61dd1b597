// Package metrics shows the balancer to Prometheus: what caplancectl tells, as
// time series.
//
//	m := metrics.New(source)
//	err := m.Listen(ctx, "127.0.0.1:9338", 16) // GET /metrics
//	err = m.Run(ctx)
package metrics

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caplance/caplance/core/api"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Source is what is shown. Its methods may be called concurrently.
type Source interface {
	Backends(api.BackendFilter) ([]api.BackendRow, error)
	Services() []api.ServiceRow
	Stats() api.Stats
	Certificates() []api.CertificateRow
	Sessions() []api.AgentSession
}

// Server answers Prometheus, at an address that may change.
type Server struct {
	http    http.Server
	most    atomic.Int64 // connections at once
	open    atomic.Int64
	refused atomic.Uint64

	mu     sync.Mutex
	addr   string
	at     net.Listener // nil: nowhere
	wg     sync.WaitGroup
	failed chan error
}

// idleTimeout is how long a connection may rest between two requests: longer than
// Prometheus' interval, which is a minute unless it is told another.
const idleTimeout = 90 * time.Second

// New prepares a server that listens nowhere.
func New(src Source) *Server {
	r := prometheus.NewRegistry()
	r.MustRegister(collector{src}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{}))
	s := &Server{failed: make(chan error, 1)}
	s.http.Handler, s.http.ReadHeaderTimeout, s.http.WriteTimeout, s.http.IdleTimeout = mux, 5*time.Second, 30*time.Second, idleTimeout
	return s
}

// Refused returns how many connections found no room.
func (s *Server) Refused() uint64 { return s.refused.Load() }

// Listen takes host:port, "" for nowhere, with room for so many connections, and
// gives up the address before. On an error that one stays.
func (s *Server) Listen(ctx context.Context, addr string, most int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if addr == s.addr {
		s.most.Store(int64(most))
		return nil
	}
	var l net.Listener
	if addr != "" {
		var err error
		if l, err = new(net.ListenConfig).Listen(ctx, "tcp", addr); err != nil {
			return fmt.Errorf("metrics: %w (what else listens there? ss -ltnp)", err)
		}
	}
	before := s.at
	s.addr, s.at = addr, l
	s.most.Store(int64(most))
	if l != nil {
		s.wg.Go(func() { s.serve(l) })
	}
	if before != nil {
		return unlessClosed(before.Close()) // it may have failed by itself
	}
	return nil
}

// unlessClosed forgives that something was closed already: http.Server closes its
// listeners, too, whenever it comes to it.
func unlessClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (s *Server) serve(l net.Listener) {
	err := s.http.Serve(limiter{l, s})
	s.mu.Lock()
	current := s.at == l
	s.mu.Unlock()
	if current && !errors.Is(err, http.ErrServerClosed) {
		select {
		case s.failed <- fmt.Errorf("metrics: %w", err):
		default:
		}
	}
}

// Run waits until ctx ends, which is no error, or a listener fails.
func (s *Server) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.failed:
		return err
	}
}

// Close hangs up.
func (s *Server) Close() error {
	err := unlessClosed(s.http.Close())
	s.wg.Wait()
	return err
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("caplance_"+name, help, labels, nil)
}

var (
	info     = describe("info", "How established flows are forwarded, and how packets come up.", "version", "datapath", "capture")
	flows    = describe("flows", "Flows in all tables.")
	capacity = describe("flows_capacity", "Flows that the tables hold at most.")
	events   = describe("events_total", "Packets and flows by what happened to them; see operations.md.", "event")
	queued   = describe("queue_packets_total", "Packets that came up to userspace.", "queue")
	waiting  = describe("queue_waiting", "Packets that wait in a queue.", "queue")
	dropped  = describe("queue_dropped_total", "Packets that found no room in a queue or its socket.", "queue")

	expiry = describe("certificate_expiry_timestamp_seconds", "When a certificate of a file ends, as Unix time; kind is own, or authority: of agents.", "file", "subject", "fingerprint", "kind")

	sessionExpiry = describe("session_expiry_timestamp_seconds", "When the certificate of a backend's agent ends, and its session with it, as Unix time.", "backend")

	picks       = describe("picks_total", "New flows by who placed them.", "service", "by")
	failures    = describe("policy_failures_total", "Traps and impossible answers of the policy.", "service", "policy")
	quarantined = describe("policy_quarantined", "1 when the policy is no longer asked.", "service", "policy")
	refused     = describe("refused_packets_total", "Packets of new flows that were dropped, by why.", "service", "why")
	eligible    = describe("backends_eligible", "Backends that get new flows.", "service")

	least          = describe("service_backends_min", "Backends that should take new flows, by min_backends.", "service")
	withdrawn      = describe("service_withdrawn", "1 while the VIP is withdrawn for want of backends.", "service")
	inPanic        = describe("service_panic", "1 while the health of the backends is ignored.", "service")
	backendState   = describe("backend_state", "1 for the state that a backend is in.", "service", "backend", "state")
	backendLoad    = describe("backend_load", "Pressure on the CPUs of a backend, percent, as its agent says (PSI, or load average per CPU).", "service", "backend")
	backendRTT     = describe("backend_path_rtt_seconds", "Round trip time of the last proof of the path to a backend.", "service", "backend")
	backendAdmin   = describe("backend_admin", "1 for each order of the operator's about a backend: pause, drain, disable, weight.", "service", "backend", "order")
	backendWeight  = describe("backend_weight", "Share of new flows relative to the other backends.", "service", "backend")
	backendFlows   = describe("backend_flows", "Open flows.", "service", "backend")
	backendPlaced  = describe("backend_flows_total", "Flows since the backend registered.", "service", "backend")
	backendPackets = describe("backend_packets_total", "Packets since the backend registered.", "service", "backend")
	backendBytes   = describe("backend_bytes_total", "Bytes of the clients' IP packets since the backend registered.", "service", "backend")
)

// collector asks the source when Prometheus does.
type collector struct{ Source }

// Describe implements prometheus.Collector: the series depend on what there is.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	st := c.Stats()
	gauge(info, 1, st.Version, string(st.Datapath.Type), st.Capture)
	gauge(flows, float64(st.Flows))
	gauge(capacity, float64(st.Capacity))
	for event, n := range st.Counters {
		counter(events, n, event)
	}
	for _, q := range st.Queues {
		name := strconv.Itoa(int(q.Queue))
		counter(queued, q.Packets, name)
		gauge(waiting, float64(q.Waiting), name)
		counter(dropped, q.QueueDrops+q.SocketDrops, name)
	}
	for _, t := range c.Certificates() {
		gauge(expiry, float64(t.Until.Unix()), t.File, t.Subject, t.Fingerprint, map[bool]string{false: "own", true: "authority"}[t.Authority])
	}
	for _, s := range c.Sessions() {
		if s.Expires != nil {
			gauge(sessionExpiry, float64(s.Expires.Unix()), s.Backend)
		}
	}
	for _, s := range c.Services() {
		for by, n := range s.Picks {
			counter(picks, n, s.Name, by)
		}
		counter(failures, s.Failures, s.Name, s.Policy)
		gauge(quarantined, map[bool]float64{true: 1}[s.Quarantined], s.Name, s.Policy)
		counter(refused, s.Denied, s.Name, "denied")
		counter(refused, s.Limited, s.Name, "limited")
		gauge(eligible, float64(s.Eligible), s.Name)
		gauge(least, float64(s.Least), s.Name)
		gauge(withdrawn, map[bool]float64{true: 1}[s.Withdrawn], s.Name)
		gauge(inPanic, map[bool]float64{true: 1}[s.Panic], s.Name)
	}
	backends, _ := c.Backends(api.BackendFilter{}) // which everything passes
	for _, b := range backends {
		gauge(backendState, 1, b.Service, b.Name, b.State.String())
		if b.RTT > 0 {
			gauge(backendRTT, b.RTT, b.Service, b.Name)
		}
		if b.Load != nil {
			gauge(backendLoad, *b.Load, b.Service, b.Name)
		}
		for _, o := range b.Admin {
			if !slices.ContainsFunc(b.Admin, func(p api.AdminRow) bool { return p.Verb == o.Verb && p.Service < o.Service }) { // one series for both
				gauge(backendAdmin, 1, b.Service, b.Name, o.Verb)
			}
		}
		if b.Absent() {
			continue
		}
		gauge(backendWeight, float64(b.Weight), b.Service, b.Name)
		gauge(backendFlows, float64(b.Flows), b.Service, b.Name)
		counter(backendPlaced, b.FlowsTotal, b.Service, b.Name)
		counter(backendPackets, b.Packets, b.Service, b.Name)
		counter(backendBytes, b.Bytes, b.Service, b.Name)
	}
}
