package core

import (
	"testing"
	"time"
)

// A service has its own timeouts and, for what it does not set, everybody's.
func TestTimeoutsOfServices(t *testing.T) {
	all := Timeouts{TCP: time.Minute, TCPSyn: 2 * time.Minute, TCPFin: 3 * time.Minute, TCPHalfClosed: 4 * time.Minute, UDP: 5 * time.Minute}
	own := Timeouts{TCP: time.Hour, UDP: time.Second}
	snap := &Snapshot{Settings: &Settings{Timeouts: all}, Services: NewServiceSet([]*Service{
		{ID: 0, Name: "a"}, {ID: 2, Name: "b", Timeouts: own}, {ID: 3, Name: "c"}, {ID: 4, Name: "d", UDP: UDPDatagram},
	})}
	got := snap.Timeouts()
	want := all
	want.TCP, want.UDP = time.Hour, time.Second
	over := all
	over.UDP = atOnce
	for id, want := range map[ServiceID]Timeouts{0: all, 1: all, 2: want, 3: all, 4: over, 9: all} {
		if *got.Of(id) != want {
			t.Errorf("service %d has %+v, want %+v", id, *got.Of(id), want)
		}
	}
	got.Each(func(t *Timeouts) { t.TCPFin = 0 })
	if got.Of(2).TCPFin != 0 || got.Of(3).TCPFin != 0 || snap.Settings.Timeouts != all {
		t.Error("not all were changed, or somebody else's")
	}
}
