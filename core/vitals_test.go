package core

import (
	"testing"
	"time"
)

func TestVitals(t *testing.T) {
	var nobody *Vitals
	if nobody.Load() != UnknownLoad || nobody.RTT() != 0 {
		t.Error("nil knows something")
	}
	v := new(Vitals)
	if v.Load() != UnknownLoad {
		t.Error("the zero value knows a load")
	}
	for text, want := range map[string]uint32{
		"0": 0, "0.0": 0, "12.5": 125, "99.96": 1000, "100": 1000,
		"": UnknownLoad, "NaN": UnknownLoad, "-1": UnknownLoad, "100.1": UnknownLoad, "Inf": UnknownLoad, "much": UnknownLoad,
	} {
		if v.SetLoad(ParseLoad(text)); v.Load() != want {
			t.Errorf("%q is %d, want %d", text, v.Load(), want)
		}
	}
	if v.SetRTT(time.Millisecond); v.RTT() != time.Millisecond {
		t.Error(v.RTT())
	}
}
