package api

import (
	"fmt"
	"time"
)

// AdminOrder asks something of a backend at the balancer.
type AdminOrder struct {
	Verb    string  `json:"verb"` // pause, drain, resume, disable, enable, weight or kick
	Backend string  `json:"backend"`
	Service string  `json:"service,omitempty"` // "": every one
	Weight  *uint32 `json:"weight,omitempty"`  // for weight; null: the agent's again
	For     float64 `json:"for_s,omitempty"`   // seconds, after which the order is over; 0: never
	Reason  string  `json:"reason,omitempty"`
}

// AdminRow is an order of the operator's that holds.
type AdminRow struct {
	Backend string     `json:"backend"`
	Service string     `json:"service,omitempty"` // "": every one
	Verb    string     `json:"verb"`              // pause, drain, disable or weight
	Weight  uint32     `json:"weight,omitempty"`  // of weight
	User    string     `json:"user"`              // who ordered it: the name, or the number of one without
	UID     uint32     `json:"uid"`
	Since   time.Time  `json:"since"`
	Until   *time.Time `json:"until,omitempty"` // null: until it is taken back
	Reason  string     `json:"reason,omitempty"`
	Timeout *time.Time `json:"timeout,omitempty"` // of drain: when it ends at the latest
	Over    bool       `json:"over,omitempty"`    // of drain: the backend has left its pools
}

// What returns what the row orders: drain, or weight 5.
func (r *AdminRow) What() string {
	if r.Verb == "weight" {
		return fmt.Sprintf("weight %d", r.Weight)
	}
	return r.Verb
}

// Caller is a process that has connected to a control socket.
type Caller struct {
	UID, GID uint32
	PID      int32
	User     string // the name of UID, or its number
}
