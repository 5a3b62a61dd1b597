package metrics

import (
	"fmt"
	"net/http"
	"net/http/pprof"
	"strings"
)

// handler returns what answers.
func (s *Server) handler(series http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.whileRunning(series))
	mux.Handle("GET /readyz", s.whileRunning(http.HandlerFunc(s.readiness)))
	mux.HandleFunc("GET /healthz", s.health)
	for path, h := range map[string]http.HandlerFunc{
		"/": pprof.Index, "/cmdline": pprof.Cmdline, "/profile": pprof.Profile, "/symbol": pprof.Symbol, "/trace": pprof.Trace,
	} {
		mux.Handle("GET /debug/pprof"+path, s.ifAsked(h))
	}
	return mux
}

// whileRunning lets h answer while the source can be asked.
func (s *Server) whileRunning(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.running.Load() {
			http.Error(w, "the balancer is starting or stopping", http.StatusServiceUnavailable)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// ifAsked lets h answer if the settings want profiles: they cost the balancer CPU, and
// show its innards.
func (s *Server) ifAsked(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.pprof.Load() {
			http.Error(w, "profiles are off (metrics_pprof = true turns them on)", http.StatusNotFound)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// health says whether the process lives and its loops run: if not, a restart mends it.
// One that starts or stops lives.
func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	if s.running.Load() {
		verdict(w, s.src.Stuck(), "the loops run")
		return
	}
	verdict(w, nil, "the balancer is starting or stopping")
}

// readiness says whether all is well, as caplancectl status does.
func (s *Server) readiness(w http.ResponseWriter, _ *http.Request) {
	st := s.src.Status()
	if st.Healthy {
		verdict(w, nil, st.Summary)
		return
	}
	verdict(w, append([]string{st.Summary}, st.Reasons...), "")
}

// verdict answers with what is wrong, a line each, or with what is not.
func verdict(w http.ResponseWriter, wrong []string, well string) {
	if len(wrong) > 0 {
		http.Error(w, strings.Join(wrong, "\n"), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintln(w, well)
}
