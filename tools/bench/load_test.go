package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPercentiles(t *testing.T) {
	times := make([]time.Duration, 100)
	for i := range times {
		times[i] = time.Duration(100-i) * time.Microsecond
	}
	if d := cmp.Diff([]float64{51, 100, 1}, percentiles(times, 0.5, 0.99, 0)); d != "" {
		t.Errorf("of 1 to 100 µs, -want +got:\n%s", d)
	}
	if d := cmp.Diff([]float64{7}, percentiles([]time.Duration{7 * time.Microsecond}, 0.99)); d != "" {
		t.Errorf("of one, -want +got:\n%s", d)
	}
	if d := cmp.Diff([]float64{0}, percentiles(nil, 0.5)); d != "" {
		t.Errorf("of none, -want +got:\n%s", d)
	}
}

func TestParseBusy(t *testing.T) {
	const stat = "cpu  100 20 3 9999 888 4 50 7 6 5\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
	busy, err := parseBusy([]byte(stat))
	if want := 1770 * time.Millisecond; err != nil || busy != want {
		t.Errorf("busy for %v (%v), want %v", busy, err, want)
	}
	for _, bad := range []string{"", "cpu 1 2 3", "cpu0 1 2 3 4 5 6 7", "cpu a b c d e f g"} {
		if _, err := parseBusy([]byte(bad)); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}

func TestLastLine(t *testing.T) {
	if got := lastLine("level=info\ncaplance server: no\n\n"); got != "caplance server: no" {
		t.Errorf("last line is %q", got)
	}
}
