package control

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

// Recorder writes what a service's policy is asked and answers to w, in the
// format of plugins/recording, until there are so many picks, 0 for no
// end, or ctx ends. An error before the first byte refuses.
type Recorder interface {
	Record(ctx context.Context, service string, picks int, w io.Writer) error
}

// recordPath is where recordings are had. One tells of every flow while it lasts,
// and costs the workers something: it is no mere question.
const recordPath = "/v1/policies/record"

// OfferRecordings adds recordings to what the socket offers. Call it before
// Run.
func (s *Server) OfferRecordings(rec Recorder) {
	s.mux.HandleFunc("GET "+recordPath, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		picks, err := strconv.Atoi(q.Get("picks"))
		if err != nil || picks < 0 {
			http.Error(w, fmt.Sprintf("picks %q is not a number", q.Get("picks")), http.StatusBadRequest)
			return
		}
		out := &stream{w: w, flush: http.NewResponseController(w).Flush}
		if err := rec.Record(r.Context(), q.Get("service"), picks, out); err != nil && !out.begun {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
}

// stream sends every write at once.
type stream struct {
	w     http.ResponseWriter
	flush func() error
	begun bool
}

func (s *stream) Write(b []byte) (int, error) {
	if !s.begun {
		s.begun = true
		s.w.Header().Set("Content-Type", "application/octet-stream")
	}
	n, err := s.w.Write(b)
	if err == nil {
		err = s.flush()
	}
	return n, err
}

// Record copies a recording of a service to w until there are so many picks, 0
// for no end, or ctx ends, which is no error.
func (c *Client) Record(ctx context.Context, service string, picks int, w io.Writer) error {
	q := url.Values{"service": {service}, "picks": {strconv.Itoa(picks)}}
	resp, err := c.send(ctx, http.MethodGet, "policies/record?"+q.Encode(), http.NoBody)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil && ctx.Err() == nil {
		return fmt.Errorf("balancer at %s: recording: %w", c.path, err)
	}
	return nil
}
