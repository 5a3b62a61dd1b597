package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/caplance/caplance/core/api"
)

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
func (c *Client) Backends(ctx context.Context) ([]api.BackendRow, error) {
	return c.BackendsOf(ctx, api.BackendFilter{})
}

// BackendsOf lists those that pass the filter.
func (c *Client) BackendsOf(ctx context.Context, f api.BackendFilter) (rows []api.BackendRow, err error) {
	q := url.Values{"service": {f.Service}, "backend": {f.Backend}}
	return rows, c.get(ctx, "backends?"+q.Encode(), &rows)
}

// Services lists the services.
func (c *Client) Services(ctx context.Context) (rows []api.ServiceRow, err error) {
	return rows, c.get(ctx, "services", &rows)
}

// Flows lists flows.
func (c *Client) Flows(ctx context.Context, f api.FlowFilter) (rows []api.FlowRow, err error) {
	return rows, c.get(ctx, "flows?"+f.Values().Encode(), &rows)
}

// Events returns what was logged last, at most limit lines; 0 is all that are kept.
func (c *Client) Events(ctx context.Context, limit int) (rows []api.EventRow, err error) {
	return c.EventsAfter(ctx, limit, 0)
}

// EventsAfter returns those that came after one.
func (c *Client) EventsAfter(ctx context.Context, limit int, seq uint64) (rows []api.EventRow, err error) {
	q := url.Values{"limit": {strconv.Itoa(limit)}, "after": {strconv.FormatUint(seq, 10)}}
	return rows, c.get(ctx, "events?"+q.Encode(), &rows)
}

// Explain returns where a flow's packets go, and why.
func (c *Client) Explain(ctx context.Context, f api.FlowID) (e api.Explanation, err error) {
	q := url.Values{"src": {f.Src.String()}, "dst": {f.Dst.String() + "/" + f.Proto}}
	return e, c.get(ctx, "explain?"+q.Encode(), &e)
}

// Stats asks for the balancer's state.
func (c *Client) Stats(ctx context.Context) (s api.Stats, err error) {
	return s, c.get(ctx, "stats", &s)
}

// Policies shows the services' policies.
func (c *Client) Policies(ctx context.Context) (rows []api.PolicyRow, err error) {
	return rows, c.get(ctx, "policies", &rows)
}

// Swap makes a policy, a bundled name or an absolute path, the service's.
func (c *Client) Swap(ctx context.Context, service, policy string) error {
	return c.order(ctx, "swap", api.PolicyChange{Service: service, Policy: policy})
}

// Rollback undoes the last swap.
func (c *Client) Rollback(ctx context.Context, service string) error {
	return c.order(ctx, "rollback", api.PolicyChange{Service: service})
}

// Shadow gives a service's policy a shadow, "" for none.
func (c *Client) Shadow(ctx context.Context, service, policy string) error {
	return c.order(ctx, "shadow", api.PolicyChange{Service: service, Policy: policy})
}

func (c *Client) order(ctx context.Context, what string, order api.PolicyChange) error {
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
		return nil, fmt.Errorf("balancer at %s: %w (%s)", c.path, errors.Unwrap(err), remedy(err, "is caplance server running?"))
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<14))
	if resp.StatusCode == http.StatusForbidden {
		return nil, fmt.Errorf("balancer at %s: %s", c.path, bytes.TrimSpace(text))
	}
	if resp.StatusCode == http.StatusInternalServerError { // it refused, and says why
		return nil, errors.New(strings.TrimSpace(string(text)))
	}
	return nil, fmt.Errorf("balancer at %s: %s: %s", c.path, resp.Status, bytes.TrimSpace(text))
}

// remedy returns what to do about a socket that cannot be opened.
func remedy(err error, otherwise string) string {
	if errors.Is(err, fs.ErrPermission) {
		return "your user may not open it: that takes root, or the group that control_group or control_read_group names in its configuration"
	}
	return otherwise
}
