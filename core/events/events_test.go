package events

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
)

// What the log leaves out is kept, debugging is not, and the newest are the last.
func TestRing(t *testing.T) {
	var out bytes.Buffer
	r := New(3)
	log := slog.New(r.Tee(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn})))
	log.Debug("no")
	log.Info("one", "n", 1)
	log.With("peer", "10.0.0.1:5").Warn("two", "err", errors.New(`it said "no"`), "empty", "")
	if got := lines(r.Last(10)); got != `INFO one n=1|WARN two peer=10.0.0.1:5 err="it said 'no'" empty=""` {
		t.Error(got)
	}
	if strings.Contains(out.String(), "one") || !strings.Contains(out.String(), "two") {
		t.Errorf("the log says %s", &out)
	}
	for i := range 5 {
		log.WithGroup("g").Info("many", "i", i, slog.Group("in", "x", strings.Repeat("y", 600)))
	}
	if got := r.Last(10); len(got) != 3 || !strings.HasPrefix(got[2].About, "g.i=4 g.in.x=yyy") || len(got[2].About) > 560 {
		t.Errorf("%d, the last %q", len(got), got[len(got)-1].About)
	}
	if got := r.Last(1); len(got) != 1 || !strings.HasPrefix(got[0].About, "g.i=4") {
		t.Errorf("the last one: %v", got)
	}
}

func lines(list []Event) string {
	var words []string
	for _, e := range list {
		words = append(words, fmt.Sprintf("%s %s %s", e.Level, e.Text, e.About))
	}
	return strings.Join(words, "|")
}

func TestMany(t *testing.T) {
	r := New(10)
	log := slog.New(r.Tee(slog.DiscardHandler))
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				log.Info("x")
				r.Last(5)
			}
		})
	}
	all.Wait()
	if n := len(r.Last(100)); n != 10 {
		t.Errorf("%d are kept", n)
	}
}

// Who has heard of one gets those after it; of one that was never here, all.
func TestAfter(t *testing.T) {
	r := New(3)
	if got := r.After(5, 0); len(got) != 0 {
		t.Errorf("%v", got)
	}
	log := slog.New(r.Tee(slog.DiscardHandler))
	for i := range 4 {
		log.Info("event", "i", i)
	}
	all := r.Last(0)
	for _, tt := range []struct {
		after uint64
		limit int
		want  string
	}{
		{0, 0, "INFO event i=1|INFO event i=2|INFO event i=3"},
		{all[0].Seq, 0, "INFO event i=2|INFO event i=3"},
		{all[0].Seq, 1, "INFO event i=3"},
		{all[2].Seq, 0, ""},
		{all[2].Seq + 1, 0, "INFO event i=1|INFO event i=2|INFO event i=3"}, // the clock was put back
	} {
		if got := lines(r.After(tt.after, tt.limit)); got != tt.want {
			t.Errorf("after %d, %d: %q, want %q", tt.after, tt.limit, got, tt.want)
		}
	}
}
