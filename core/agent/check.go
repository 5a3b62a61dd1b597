package agent

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// The codes that a check ends in besides those of an HTTP server.
const (
	healthy   = 200
	unhealthy = 503
)

// checker keeps the code that HEALTH carries.
type checker struct {
	target            *url.URL // nil: always healthy
	interval, timeout time.Duration
	codes             chan int // the last one that was not read yet
}

// Run checks at its own pace and tells every change, until ctx ends. A backend
// counts as healthy only once a check said so.
func (c *checker) Run(ctx context.Context) error {
	if c.target == nil {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(c.interval)
	defer tick.Stop()
	for last := 0; ; {
		if code := c.check(ctx); code != last && ctx.Err() == nil {
			last = code
			select {
			case <-c.codes: // replaced
			default:
			}
			c.codes <- code
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (c *checker) first() int {
	if c.target == nil {
		return healthy
	}
	return unhealthy
}

func (c *checker) check(ctx context.Context) int {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if c.target.Scheme == "tcp" {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", c.target.Host)
		if err != nil {
			return unhealthy
		}
		conn.Close()
		return healthy
	}
	return get(ctx, c.target.String())
}

// get is the status of a page: 200 for every 2xx, and redirects as they are,
// since where they lead is not what is asked about.
func get(ctx context.Context, page string) int {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		return unhealthy
	}
	transport := &http.Transport{DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return unhealthy
	}
	defer resp.Body.Close()
	io.CopyN(io.Discard, resp.Body, 64<<10)
	if resp.StatusCode/100 == 2 {
		return healthy
	}
	return resp.StatusCode
}

// load is the host's load average over a minute, "" where there is none.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	avg, _, _ := strings.Cut(string(b), " ")
	return avg
}
