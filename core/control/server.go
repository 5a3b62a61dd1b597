// Package control is how caplancectl talks to what runs: net/rpc with the
// agent, whose first generation spoke it, and JSON over HTTP with the
// balancer. Both use unix sockets; who may open the socket may do all.
//
//	srv := control.NewServer("/var/run/caplance-server.sock", source)
//	err := srv.Run(ctx)
//
//	c := control.Dial("/var/run/caplance-server.sock")
//	rows, err := c.Backends(ctx)
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Server is the balancer's control socket.
type Server struct {
	path  string
	ready chan struct{}
	mux   *http.ServeMux
}

// NewServer prepares a socket that shows src.
func NewServer(path string, src Source) *Server {
	s := &Server{path: path, ready: make(chan struct{}), mux: http.NewServeMux()}
	s.mux.HandleFunc("GET /v1/backends", func(w http.ResponseWriter, _ *http.Request) { reply(w, src.Backends(), nil) })
	s.mux.HandleFunc("GET /v1/services", func(w http.ResponseWriter, _ *http.Request) { reply(w, src.Services(), nil) })
	s.mux.HandleFunc("GET /v1/stats", func(w http.ResponseWriter, _ *http.Request) { reply(w, src.Stats(), nil) })
	s.mux.HandleFunc("GET /v1/flows", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		limit, err := strconv.Atoi(q.Get("limit"))
		if q.Has("limit") && (err != nil || limit < 0) {
			http.Error(w, fmt.Sprintf("limit %q is not a number", q.Get("limit")), http.StatusBadRequest)
			return
		}
		rows, err := src.Flows(r.Context(), FlowFilter{q.Get("service"), q.Get("backend"), limit})
		reply(w, rows, err)
	})
	return s
}

func reply(w http.ResponseWriter, v any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client hung up
}

// Ready is closed when the socket answers.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run serves until ctx ends, which is no error, and removes the socket.
func (s *Server) Run(ctx context.Context) error {
	l, err := Listen(s.path)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: s.mux, ReadHeaderTimeout: 5 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		srv.Close()
	})
	close(s.ready)
	err = srv.Serve(l)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("control socket: %w", err)
}

// Client asks a balancer.
type Client struct {
	path string
	http http.Client
}

// Dial prepares a client; it connects when asked something.
func Dial(path string) *Client {
	c := &Client{path: path}
	c.http.Transport = &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}
	return c
}

// Backends lists the backends of every service.
func (c *Client) Backends(ctx context.Context) (rows []BackendRow, err error) {
	return rows, c.get(ctx, "backends", &rows)
}

// Services lists the services.
func (c *Client) Services(ctx context.Context) (rows []ServiceRow, err error) {
	return rows, c.get(ctx, "services", &rows)
}

// Flows lists flows.
func (c *Client) Flows(ctx context.Context, f FlowFilter) (rows []FlowRow, err error) {
	q := url.Values{"service": {f.Service}, "backend": {f.Backend}, "limit": {strconv.Itoa(f.Limit)}}
	return rows, c.get(ctx, "flows?"+q.Encode(), &rows)
}

// Stats asks for the balancer's state.
func (c *Client) Stats(ctx context.Context) (s Stats, err error) {
	return s, c.get(ctx, "stats", &s)
}

func (c *Client) get(ctx context.Context, what string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://caplance/v1/"+what, nil)
	if err != nil {
		return fmt.Errorf("balancer at %s: %w", c.path, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("balancer at %s: %w (is caplance server running, and may you open its socket?)", c.path, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		var text [512]byte
		n, _ := resp.Body.Read(text[:])
		return fmt.Errorf("balancer at %s: %s: %s", c.path, resp.Status, text[:n])
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("balancer at %s: answer: %w", c.path, err)
	}
	return nil
}
