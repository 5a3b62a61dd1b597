// Package events keeps what a daemon has logged last, whatever its log lets through,
// for operators who ask it: who came and went, who was refused and why, what was
// ordered, what was repaired.
//
//	ring := events.New(1000)
//	log = slog.New(ring.Tee(log.Handler()))
//	rows := ring.Last(100)
package events

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// Event is one line of the log.
type Event struct {
	Seq   uint64 // grows from one to the next, also over restarts of the process
	Time  time.Time
	Level slog.Level
	Text  string // the message
	About string // its attributes, as the text handler has them
}

// Ring keeps the newest events.
type Ring struct {
	mu   sync.Mutex
	list []Event // a ring once it is full
	next int
	most int
	seq  uint64
}

// New returns a ring for so many events.
func New(most int) *Ring { return &Ring{most: most, seq: uint64(time.Now().UnixMicro())} }

// After returns the events after one, as Last does; 0 is before all, and so is one that
// this ring has not come to: of a process whose clock went ahead.
func (r *Ring) After(seq uint64, n int) []Event {
	list := r.Last(0)
	if len(list) == 0 || seq > list[len(list)-1].Seq {
		seq = 0
	}
	i, _ := slices.BinarySearchFunc(list, seq+1, func(e Event, seq uint64) int { return cmp.Compare(e.Seq, seq) })
	list = list[i:]
	if n == 0 {
		return list
	}
	return list[max(0, len(list)-n):]
}

// Last returns the newest events, the oldest of them first; 0 is all that are kept.
func (r *Ring) Last(n int) []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := append(append([]Event(nil), r.list[r.next:]...), r.list[:r.next]...)
	if n == 0 {
		return all
	}
	return all[max(0, len(all)-n):]
}

func (r *Ring) add(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seq++
	e.Seq = r.seq
	if len(r.list) < r.most {
		r.list = append(r.list, e)
		return
	}
	r.list[r.next] = e
	r.next = (r.next + 1) % r.most
}

// Tee returns a handler that keeps what is worth knowing, and hands on what the other
// one takes.
func (r *Ring) Tee(to slog.Handler) slog.Handler { return &tee{ring: r, to: to} }

// tee is the handler of one logger.
type tee struct {
	ring  *Ring
	to    slog.Handler
	about string // of WithAttrs
	group string // of WithGroup, with a dot
}

// Enabled implements slog.Handler.
func (t *tee) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelInfo || t.to.Enabled(ctx, l)
}

// Handle implements slog.Handler.
func (t *tee) Handle(ctx context.Context, rec slog.Record) error {
	if rec.Level >= slog.LevelInfo {
		about := strings.Builder{}
		about.WriteString(t.about)
		rec.Attrs(func(a slog.Attr) bool {
			write(&about, t.group, a)
			return true
		})
		t.ring.add(Event{Time: rec.Time, Level: rec.Level, Text: rec.Message, About: about.String()})
	}
	if !t.to.Enabled(ctx, rec.Level) {
		return nil
	}
	return t.to.Handle(ctx, rec)
}

// maxValue is how much of a value is kept, bytes.
const maxValue = 512

func write(b *strings.Builder, group string, a slog.Attr) {
	a.Value = a.Value.Resolve()
	if a.Value.Kind() == slog.KindGroup {
		for _, in := range a.Value.Group() {
			write(b, group+a.Key+".", in)
		}
		return
	}
	value := a.Value.String()
	if len(value) > maxValue {
		value = strings.ToValidUTF8(value[:maxValue], "") + "…"
	}
	if value == "" || strings.ContainsAny(value, " \"=") {
		value = `"` + strings.ReplaceAll(value, `"`, `'`) + `"`
	}
	if b.Len() > 0 {
		b.WriteByte(' ')
	}
	b.WriteString(group + a.Key + "=" + value)
}

// WithAttrs implements slog.Handler.
func (t *tee) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *t
	next.to = t.to.WithAttrs(attrs)
	about := strings.Builder{}
	about.WriteString(t.about)
	for _, a := range attrs {
		write(&about, t.group, a)
	}
	next.about = about.String()
	return &next
}

// WithGroup implements slog.Handler.
func (t *tee) WithGroup(name string) slog.Handler {
	next := *t
	next.to, next.group = t.to.WithGroup(name), t.group+name+"."
	return &next
}
