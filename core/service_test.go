package core

import (
	"testing"
	"time"
)

// A clock that was set back makes backends that come from the future.
func TestRampOfTheFuture(t *testing.T) {
	if r := (&Service{}).Ramp(-time.Hour); r != FullRamp {
		t.Errorf("without a slow start: %d", r)
	}
	if r := (&Service{SlowStart: time.Minute}).Ramp(-time.Hour); r != FullRamp/10 {
		t.Errorf("in its slow start: %d", r)
	}
}
