package agent

import (
	"strconv"
	"testing"
)

func TestPressure(t *testing.T) {
	for text, want := range map[string]string{
		"some avg10=12.34 avg60=1.00 avg300=0.50 total=123\nfull avg10=1.00 avg60=0.00 avg300=0.00 total=0\n": "12.3",
		"some avg10=0.00 avg60=1.00\n": "0.0",
		"some avg10=400 x\n":           "100.0",
		"full avg10=1.00\n":            "",
		"some avg10=x y\n":             "",
		"":                             "",
	} {
		if got, ok := pressure([]byte(text)); got != want || ok != (want != "") {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if n, err := strconv.ParseFloat(load(), 64); err != nil || n < 0 || n > 100 {
		t.Errorf("load here: %v, %v", n, err)
	}
}
