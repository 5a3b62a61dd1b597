package config

import (
	"context"
	"log/slog"
	"sync/atomic"
)

// logHandler writes by the root that its sink has now, with the attributes and
// groups of its logger.
type logHandler struct {
	sink *LogSink
	with []func(slog.Handler) slog.Handler // from the root, in this order
	last atomic.Pointer[derivedHandler]
}

// derivedHandler is a root with a logger's attributes and groups.
type derivedHandler struct {
	slog.Handler
	root *rootHandler
}

// Enabled implements slog.Handler.
func (h *logHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return h.sink.root.Load().Enabled(ctx, l)
}

// Handle implements slog.Handler.
func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	return h.now().Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.and(func(b slog.Handler) slog.Handler { return b.WithAttrs(attrs) })
}

// WithGroup implements slog.Handler.
func (h *logHandler) WithGroup(name string) slog.Handler {
	return h.and(func(b slog.Handler) slog.Handler { return b.WithGroup(name) })
}

func (h *logHandler) and(step func(slog.Handler) slog.Handler) slog.Handler {
	with := append(h.with[:len(h.with):len(h.with)], step) // siblings share no backing array
	return &logHandler{sink: h.sink, with: with}
}

// now returns the handler of the sink's root, derived once for each root.
func (h *logHandler) now() slog.Handler {
	root := h.sink.root.Load()
	if d := h.last.Load(); d != nil && d.root == root {
		return d
	}
	d := &derivedHandler{root.Handler, root}
	for _, step := range h.with {
		d.Handler = step(d.Handler)
	}
	h.last.Store(d)
	return d
}
