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
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Server is the balancer's control socket.
type Server struct {
	path  string
	ready chan struct{}
	mux   *http.ServeMux
}

// NewServer prepares a socket that shows src and steers policies.
func NewServer(path string, src Source, policies Policies) *Server {
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
		rows, err := src.Flows(r.Context(), FlowFilter{q.Get("service"), q.Get("backend"), q.Has("top"), limit})
		reply(w, rows, err)
	})
	s.mux.HandleFunc("GET /v1/explain", func(w http.ResponseWriter, r *http.Request) {
		id, err := ParseFlowID(r.URL.Query().Get("src"), r.URL.Query().Get("dst"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		e, err := src.Explain(r.Context(), id)
		reply(w, e, err)
	})
	s.mux.HandleFunc("POST /v1/handover", func(w http.ResponseWriter, _ *http.Request) {
		leave, err := src.Handover()
		reply(w, struct{}{}, err)
		if err == nil {
			_ = http.NewResponseController(w).Flush() // the process ends
			leave()
		}
	})
	s.mux.HandleFunc("GET /v1/policies", func(w http.ResponseWriter, _ *http.Request) { reply(w, policies.Policies(), nil) })
	order := func(path string, do func(context.Context, PolicyChange) error) {
		s.mux.HandleFunc("POST /v1/policies/"+path, func(w http.ResponseWriter, r *http.Request) {
			var c PolicyChange
			if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&c); err != nil {
				http.Error(w, fmt.Sprintf("order is not JSON: %v", err), http.StatusBadRequest)
				return
			}
			reply(w, struct{}{}, do(r.Context(), c))
		})
	}
	order("swap", func(ctx context.Context, c PolicyChange) error { return policies.Swap(ctx, c.Service, c.Policy) })
	order("rollback", func(ctx context.Context, c PolicyChange) error { return policies.Rollback(ctx, c.Service) })
	order("shadow", func(ctx context.Context, c PolicyChange) error { return policies.Shadow(ctx, c.Service, c.Policy) })
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
	if f.Top {
		q.Set("top", "")
	}
	return rows, c.get(ctx, "flows?"+q.Encode(), &rows)
}

// Explain says where a flow's packets go, and why.
func (c *Client) Explain(ctx context.Context, f FlowID) (e Explanation, err error) {
	q := url.Values{"src": {f.Src.String()}, "dst": {f.Dst.String() + "/" + f.Proto}}
	return e, c.get(ctx, "explain?"+q.Encode(), &e)
}

// Handover ends the balancer and leaves its flows, and new ones, to the kernel
// until a successor starts.
func (c *Client) Handover(ctx context.Context) error {
	return c.ask(ctx, http.MethodPost, "handover", http.NoBody, &struct{}{})
}

// Stats asks for the balancer's state.
func (c *Client) Stats(ctx context.Context) (s Stats, err error) {
	return s, c.get(ctx, "stats", &s)
}

// Policies shows the services' policies.
func (c *Client) Policies(ctx context.Context) (rows []PolicyRow, err error) {
	return rows, c.get(ctx, "policies", &rows)
}

// Swap makes a policy, a bundled name or an absolute path, the service's.
func (c *Client) Swap(ctx context.Context, service, policy string) error {
	return c.order(ctx, "swap", PolicyChange{service, policy})
}

// Rollback undoes the last swap.
func (c *Client) Rollback(ctx context.Context, service string) error {
	return c.order(ctx, "rollback", PolicyChange{Service: service})
}

// Shadow gives a service's policy a shadow, "" for none.
func (c *Client) Shadow(ctx context.Context, service, policy string) error {
	return c.order(ctx, "shadow", PolicyChange{service, policy})
}

func (c *Client) order(ctx context.Context, what string, order PolicyChange) error {
	body, err := json.Marshal(order)
	if err != nil {
		return fmt.Errorf("balancer at %s: %w", c.path, err)
	}
	return c.ask(ctx, http.MethodPost, "policies/"+what, bytes.NewReader(body), &struct{}{})
}

func (c *Client) get(ctx context.Context, what string, into any) error {
	return c.ask(ctx, http.MethodGet, what, http.NoBody, into)
}

func (c *Client) ask(ctx context.Context, method, what string, body io.Reader, into any) error {
	resp, err := c.send(ctx, method, what, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("balancer at %s: answer: %w", c.path, err)
	}
	return nil
}

// send asks the balancer; a refusal is an error. The caller closes the body.
func (c *Client) send(ctx context.Context, method, what string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://caplance/v1/"+what, body)
	if err != nil {
		return nil, fmt.Errorf("balancer at %s: %w", c.path, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("balancer at %s: %w (is caplance server running, and may you open its socket?)", c.path, errors.Unwrap(err))
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<14))
	if resp.StatusCode == http.StatusInternalServerError { // it refused, and says why
		return nil, errors.New(strings.TrimSpace(string(text)))
	}
	return nil, fmt.Errorf("balancer at %s: %s: %s", c.path, resp.Status, bytes.TrimSpace(text))
}
