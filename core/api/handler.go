// Package api defines what the balancer and the agent show, as JSON, and serves
// what the balancer shows over HTTP, read-only. Who may ask, and where, is its
// users' decision: core/control serves it at a unix socket.
//
//	mux.Handle("GET /v1/", api.Handler(source))
//
//	GET /v1/status    StatusReport
//	GET /v1/backends  []BackendRow
//	GET /v1/services  []ServiceRow
//	GET /v1/policies  []PolicyRow
//	GET /v1/stats     Stats
//	GET /v1/flows     []FlowRow, narrowed by service=, backend=, client=, state=, older=, top, limit=
//	GET /v1/events    []EventRow, at most limit=, after= the seq of one
//	GET /v1/explain   Explanation of src=ADDRESS:PORT, dst=VIP:PORT/proto
//
// Errors are plain text: 400 says what is wrong with the request, 500 why the
// balancer has no answer.
package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
)

// Source supplies what Handler shows. Its methods may be called concurrently.
type Source interface {
	Status() StatusReport
	Backends(f BackendFilter) ([]BackendRow, error)
	Services() []ServiceRow
	Policies() []PolicyRow
	// Flows collects from the workers, which takes some milliseconds.
	Flows(ctx context.Context, f FlowFilter) ([]FlowRow, error)
	Stats() Stats
	// Events returns the last so many after one, 0 for all.
	Events(limit int, after uint64) []EventRow
	// Explain tells of one flow, known or not.
	Explain(ctx context.Context, flow FlowID) (Explanation, error)
}

// Handler serves a source below /v1/.
func Handler(src Source) http.Handler {
	mux := http.NewServeMux()
	show(mux, "status", src.Status)
	show(mux, "services", src.Services)
	show(mux, "policies", src.Policies)
	show(mux, "stats", src.Stats)
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) { events(w, r, src) })
	mux.HandleFunc("GET /v1/backends", func(w http.ResponseWriter, r *http.Request) { backends(w, r, src) })
	mux.HandleFunc("GET /v1/flows", func(w http.ResponseWriter, r *http.Request) { flows(w, r, src) })
	mux.HandleFunc("GET /v1/explain", func(w http.ResponseWriter, r *http.Request) { explain(w, r, src) })
	return mux
}

// show answers GET requests with what get returns.
func show[T any](mux *http.ServeMux, what string, get func() T) {
	mux.HandleFunc("GET /v1/"+what, func(w http.ResponseWriter, _ *http.Request) { Reply(w, get(), nil) })
}

func backends(w http.ResponseWriter, r *http.Request, src Source) {
	q := r.URL.Query()
	rows, err := src.Backends(BackendFilter{q.Get("service"), q.Get("backend")})
	Reply(w, rows, err)
}

func flows(w http.ResponseWriter, r *http.Request, src Source) {
	f, err := ParseFlowFilter(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	rows, err := src.Flows(r.Context(), f)
	Reply(w, rows, err)
}

func events(w http.ResponseWriter, r *http.Request, src Source) {
	q := r.URL.Query()
	after, err := strconv.ParseUint(q.Get("after"), 10, 64)
	if q.Has("after") && err != nil {
		http.Error(w, fmt.Sprintf("after %q is not a number", q.Get("after")), http.StatusBadRequest)
		return
	}
	if limit, ok := limitOf(w, r); ok {
		Reply(w, src.Events(limit, after), nil)
	}
}

// limitOf returns how many rows are asked for, 0 for all; a limit that is none is
// answered.
func limitOf(w http.ResponseWriter, r *http.Request) (limit int, ok bool) {
	q := r.URL.Query()
	limit, err := strconv.Atoi(q.Get("limit"))
	if q.Has("limit") && (err != nil || limit < 0) {
		http.Error(w, fmt.Sprintf("limit %q is not a number", q.Get("limit")), http.StatusBadRequest)
		return 0, false
	}
	return limit, true
}

func explain(w http.ResponseWriter, r *http.Request, src Source) {
	id, err := ParseFlowID(r.URL.Query().Get("src"), r.URL.Query().Get("dst"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	e, err := src.Explain(r.Context(), id)
	Reply(w, e, err)
}

// Reply answers a request with v as JSON, or with status 500 and the error.
func Reply(w http.ResponseWriter, v any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client hung up
}
