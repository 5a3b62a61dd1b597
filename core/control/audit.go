package control

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"
)

// auditor writes a line to the log for each order, and for each that was refused.
type auditor struct {
	log *slog.Logger

	mu     sync.Mutex
	denied time.Time // when the last line about a refusal was written
	more   int       // refusals since
}

// deniedEvery is how often a refusal is logged: anybody can cause one.
const deniedEvery = time.Second

// done writes the line of an order that was carried out, or failed.
func (a *auditor) done(c caller, order string, err error) {
	result := "done"
	if err != nil {
		result = err.Error()
	}
	a.log.Info("order", a.who(c, "order", clip(order), "result", result)...)
}

// refused writes the line of one who may not.
func (a *auditor) refused(c caller, order string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Since(a.denied) < deniedEvery {
		a.more++
		return
	}
	a.log.Warn("order refused: its user may not", a.who(c, "order", clip(order), "not_logged", a.more)...)
	a.denied, a.more = time.Now(), 0
}

// maxOrder is how much of an order is in a line, bytes: who may give none can send a
// megabyte, too.
const maxOrder = 2048

func clip(order string) string {
	if len(order) <= maxOrder {
		return order
	}
	return strings.ToValidUTF8(order[:maxOrder], "") + "…"
}

func (a *auditor) who(c caller, more ...any) []any {
	return append([]any{"uid", c.Uid, "user", userName(c.Uid), "pid", c.Pid, "command", commandLine(c.Pid)}, more...)
}

// maxBody is the longest request body, bytes.
const maxBody = 1 << 16

// answer is the answer to an order on its way out, with what the log is to have.
type answer struct {
	http.ResponseWriter
	status int
	text   bytes.Buffer // of a refusal
	failed error        // of an order that is answered by 200 all the same
	audit  func()       // once
}

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (a *answer) Write(b []byte) (int, error) {
	if a.status >= http.StatusBadRequest && a.text.Len() < 1<<10 {
		a.text.Write(b)
	}
	return a.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController find what is beneath.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// err returns how the order ended.
func (a *answer) err() error {
	if a.status >= http.StatusBadRequest {
		return refusal(strings.TrimSpace(a.text.String()))
	}
	return a.failed
}

// refusal is the text of an answer.
type refusal string

func (r refusal) Error() string { return string(r) }

// guard lets those pass who may, and notes what they order.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := callerOf(r.Context())
		what := strings.TrimPrefix(r.URL.RequestURI(), "/v1/")
		need := operator
		if r.Method == http.MethodGet && r.URL.Path != recordPath {
			need = reader
		}
		if err := s.access.refuse(c, need); err != nil {
			if need == operator {
				s.audit.refused(c, what)
			}
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		if r.Method == http.MethodGet && need == reader {
			next.ServeHTTP(w, r)
			return
		}
		body, err := s.body(w, r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if len(body) > 0 {
			what += " " + string(body)
		}
		a := &answer{ResponseWriter: w, status: http.StatusOK}
		a.audit = sync.OnceFunc(func() {
			if !r.URL.Query().Has("dry_run") { // it orders nothing
				s.audit.done(c, what, a.err())
			}
		})
		defer a.audit()
		next.ServeHTTP(a, r)
	})
}

// body reads all of a request, within its time, and puts it back.
func (s *Server) body(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	control := http.NewResponseController(w)
	if err := control.SetReadDeadline(time.Now().Add(requestTimeout)); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return body, control.SetReadDeadline(time.Time{})
}

// fail notes that an order failed that is answered by 200.
func fail(w http.ResponseWriter, err error) {
	if a, ok := w.(*answer); ok {
		a.failed = err
	}
}

// audited writes the line of an order now, before the process ends.
func audited(w http.ResponseWriter) {
	if a, ok := w.(*answer); ok {
		a.audit()
	}
}
