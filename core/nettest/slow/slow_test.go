package slow

import (
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	for s, want := range map[string]float64{"": 1, "1": 1, "10": 10, "2.5": 2.5} {
		if got := parse(s); got != want {
			t.Errorf("%q: %v, want %v", s, got, want)
		}
	}
	for _, s := range []string{"0", "0.5", "-1", "ten", "NaN", "Inf"} {
		t.Run(s, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Errorf("%q is a factor of %v", s, parse(s))
				}
			}()
			parse(s)
		})
	}
}

func TestTime(t *testing.T) {
	defer func(f float64) { factor = f }(factor)
	factor = 10
	if got := Time(1500 * time.Millisecond); got != 15*time.Second {
		t.Error(got)
	}
}
