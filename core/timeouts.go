package core

import "time"

// Timeouts are the idle times after which a flow ends.
type Timeouts struct {
	TCP           time.Duration // established
	TCPSyn        time.Duration // pending
	TCPFin        time.Duration // closing
	TCPHalfClosed time.Duration // the client has sent FIN, and its backend may go on
	UDP           time.Duration
}

// Or returns t with those of another for what is zero.
func (t Timeouts) Or(other Timeouts) Timeouts {
	or := func(d *time.Duration, other time.Duration) {
		if *d == 0 {
			*d = other
		}
	}
	or(&t.TCP, other.TCP)
	or(&t.TCPSyn, other.TCPSyn)
	or(&t.TCPFin, other.TCPFin)
	or(&t.TCPHalfClosed, other.TCPHalfClosed)
	or(&t.UDP, other.UDP)
	return t
}

// IdleTimeouts are the timeouts of all services.
type IdleTimeouts struct {
	All Timeouts   // of services without their own
	By  []Timeouts // by ServiceID; shorter where nobody has their own
}

// Of returns the timeouts of a service's flows.
func (i *IdleTimeouts) Of(id ServiceID) *Timeouts {
	if int(id) < len(i.By) {
		return &i.By[id]
	}
	return &i.All
}

// Each shows all of them, to be changed.
func (i *IdleTimeouts) Each(change func(*Timeouts)) {
	change(&i.All)
	for id := range i.By {
		change(&i.By[id])
	}
}

// atOnce ends flows of which there are to be none, whenever their last packet came.
const atOnce = -1

// Timeouts returns the timeouts that hold, which belong to the caller. Datagrams
// that are scheduled by themselves have no flow: those of before are over.
func (s *Snapshot) Timeouts() *IdleTimeouts {
	i := &IdleTimeouts{All: s.Settings.Timeouts}
	for _, svc := range s.Services.List {
		if svc.Timeouts == (Timeouts{}) && svc.UDP == UDPFlow {
			continue
		}
		for len(i.By) <= int(svc.ID) {
			i.By = append(i.By, i.All)
		}
		i.By[svc.ID] = svc.Timeouts.Or(i.All)
		if svc.UDP == UDPDatagram {
			i.By[svc.ID].UDP = atOnce
		}
	}
	return i
}
