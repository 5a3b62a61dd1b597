// Package metrics shows the balancer to Prometheus: what caplancectl tells, as
// time series.
//
//	err := metrics.New("127.0.0.1:9338", source).Run(ctx) // GET /metrics
package metrics

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/caplance/caplance/core/control"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Source is what is shown. Its methods may be called concurrently.
type Source interface {
	Backends() []control.BackendRow
	Services() []control.ServiceRow
	Stats() control.Stats
}

// Server answers Prometheus.
type Server struct {
	addr    string
	handler http.Handler
}

// New prepares a server at host:port.
func New(addr string, src Source) *Server {
	r := prometheus.NewRegistry()
	r.MustRegister(collector{src}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{}))
	return &Server{addr, mux}
}

// Run answers until ctx ends, which is no error.
func (s *Server) Run(ctx context.Context) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", s.addr)
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	srv := &http.Server{Handler: s.handler, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		srv.Close()
	})
	err = srv.Serve(l)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("metrics: %w", err)
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("caplance_"+name, help, labels, nil)
}

var (
	info     = describe("info", "Which rung forwards, and how packets come up.", "version", "rung", "capture")
	flows    = describe("flows", "Flows in all tables.")
	capacity = describe("flows_capacity", "Flows that the tables hold at most.")
	events   = describe("events_total", "Packets and flows by what happened to them; see operations.md.", "event")
	queued   = describe("queue_packets_total", "Packets that came up to userspace.", "queue")
	waiting  = describe("queue_waiting", "Packets that wait in a queue.", "queue")
	dropped  = describe("queue_dropped_total", "Packets that found no room in a queue or its socket.", "queue")

	picks       = describe("picks_total", "New flows by who placed them.", "service", "by")
	failures    = describe("policy_failures_total", "Traps and impossible answers of the policy.", "service", "policy")
	quarantined = describe("policy_quarantined", "1 when the policy is no longer asked.", "service", "policy")
	eligible    = describe("backends_eligible", "Backends that get new flows.", "service")

	backendState   = describe("backend_state", "1 for the state that a backend is in.", "service", "backend", "state")
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
	gauge(info, 1, st.Version, st.Rung, st.Capture)
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
	for _, s := range c.Services() {
		for by, n := range s.Picks {
			counter(picks, n, s.Name, by)
		}
		counter(failures, s.Failures, s.Name, s.Policy)
		gauge(quarantined, map[bool]float64{true: 1}[s.Quarantined], s.Name, s.Policy)
		gauge(eligible, float64(s.Eligible), s.Name)
	}
	for _, b := range c.Backends() {
		gauge(backendState, 1, b.Service, b.Name, b.State.String())
		gauge(backendFlows, float64(b.Flows), b.Service, b.Name)
		counter(backendPlaced, b.FlowsTotal, b.Service, b.Name)
		counter(backendPackets, b.Packets, b.Service, b.Name)
		counter(backendBytes, b.Bytes, b.Service, b.Name)
	}
}
