package control

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/caplance/caplance/core/api"
)

// Orders carries out what an operator asks of the balancer as a whole. Its
// methods may be called concurrently.
type Orders interface {
	// Reload reads the configuration file again and makes it hold, all of it or,
	// with an error, nothing. A dry run changes nothing and fails where a reload
	// would. The rows are what differs, also with an error.
	Reload(ctx context.Context, dryRun bool) ([]api.ChangeRow, error)
	// Handover prepares to leave the flows to the kernel until a successor
	// starts; leave then ends the process.
	Handover(ctx context.Context) (report api.HandoverReport, leave func(), err error)
}

// reloaded is the answer to a reload: a refusal still shows what differs.
type reloaded struct {
	Changes []api.ChangeRow `json:"changes"`
	Error   string          `json:"error,omitempty"`
}

func (s *Server) offerOrders(o Orders) {
	s.mux.HandleFunc("POST /v1/reload", func(w http.ResponseWriter, r *http.Request) {
		var answer reloaded
		var err error
		if answer.Changes, err = o.Reload(r.Context(), r.URL.Query().Has("dry_run")); err != nil {
			answer.Error = err.Error()
			fail(w, err)
		}
		api.Reply(w, answer, nil)
	})
	s.mux.HandleFunc("POST /v1/handover", func(w http.ResponseWriter, r *http.Request) {
		report, leave, err := o.Handover(r.Context())
		api.Reply(w, report, err)
		if err == nil {
			_ = http.NewResponseController(w).Flush() // the process ends
			audited(w)
			leave()
		}
	})
}

// Status asks whether all is well.
func (c *Client) Status(ctx context.Context) (s api.StatusReport, err error) {
	return s, c.get(ctx, "status", &s)
}

// Reload makes the configuration file hold and returns what that changed; a dry
// run returns what it would change. A refusal is an error, with the changes that
// were refused.
func (c *Client) Reload(ctx context.Context, dryRun bool) ([]api.ChangeRow, error) {
	q := url.Values{}
	if dryRun {
		q.Set("dry_run", "")
	}
	var answer reloaded
	if err := c.ask(ctx, http.MethodPost, "reload?"+q.Encode(), http.NoBody, &answer); err != nil {
		return nil, err
	}
	if answer.Error != "" {
		return answer.Changes, errors.New(answer.Error)
	}
	return answer.Changes, nil
}

// Handover ends the balancer and leaves its flows, and new ones, to the kernel
// until a successor starts.
func (c *Client) Handover(ctx context.Context) (h api.HandoverReport, err error) {
	return h, c.ask(ctx, http.MethodPost, "handover", http.NoBody, &h)
}
