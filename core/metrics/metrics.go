// Package metrics shows the balancer to Prometheus, and to whoever asks whether it
// lives: what caplancectl tells, as time series. docs/metrics.md lists them.
//
//	m := metrics.New(source)
//	err := m.Listen(ctx, metrics.Settings{Addr: "127.0.0.1:9338", Connections: 16})
//	err = m.Run(ctx) // until then it says that the balancer is starting
//
//	GET /metrics       the series
//	GET /healthz       200: the process lives and its loops run; else 503
//	GET /readyz        200: it balances and all is well; else 503
//	GET /debug/pprof/  Go's profiles, if the settings want them
package metrics

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
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
	Policies() []api.PolicyRow
	Status() api.StatusReport
	Stuck() []string // which loops do not run any more
}

// Settings say where the server is, and what it shows.
type Settings struct {
	Addr        string // host:port, "" for nowhere
	Connections int    // at once
	Pprof       bool   // Go's profiles, too
}

// Server answers Prometheus, at an address that may change.
type Server struct {
	src     Source
	http    http.Server
	running atomic.Bool // while Run does: src can be asked
	pprof   atomic.Bool
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
	s := &Server{src: src, failed: make(chan error, 1)}
	s.http.Handler = s.handler(promhttp.HandlerFor(r, promhttp.HandlerOpts{}))
	s.http.ReadHeaderTimeout, s.http.WriteTimeout, s.http.IdleTimeout = 5*time.Second, 30*time.Second, idleTimeout
	return s
}

// Refused returns how many connections found no room.
func (s *Server) Refused() uint64 { return s.refused.Load() }

// Listen makes the settings hold: it takes the address and gives up the one before. On
// an error that one stays.
func (s *Server) Listen(ctx context.Context, set Settings) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if set.Addr == s.addr {
		s.set(set)
		return nil
	}
	var l net.Listener
	if set.Addr != "" {
		var err error
		if l, err = new(net.ListenConfig).Listen(ctx, "tcp", set.Addr); err != nil {
			return fmt.Errorf("metrics: %w (what else listens there? ss -ltnp)", err)
		}
	}
	before := s.at
	s.addr, s.at = set.Addr, l
	s.set(set)
	if l != nil {
		s.wg.Go(func() { s.serve(l) })
	}
	if before != nil {
		return unlessClosed(before.Close()) // it may have failed by itself
	}
	return nil
}

func (s *Server) set(set Settings) {
	s.most.Store(int64(set.Connections))
	s.pprof.Store(set.Pprof)
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

// Run has the server ask its source until ctx ends, which is no error, or a listener
// fails. Before and after that the balancer is starting or stopping.
func (s *Server) Run(ctx context.Context) error {
	s.running.Store(true)
	defer s.running.Store(false)
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
