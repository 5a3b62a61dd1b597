package api

import (
	"time"

	"github.com/caplance/caplance/core/reconcile"
)

// StatusReport tells if the balancer does what its configuration says.
type StatusReport struct {
	Healthy  bool        `json:"healthy"`
	Summary  string      `json:"summary"`           // one line for people
	Reasons  []string    `json:"reasons,omitempty"` // why it is not healthy, a line each
	Revision uint64      `json:"revision"`          // of the state that the machine is to have
	Datapath string      `json:"datapath"`          // type and reason
	Warnings []string    `json:"warnings"`          // of what is not healthy, or will not stay so
	Targets  []TargetRow `json:"targets"`
	Links    []LinkRow   `json:"links"`
	Admin    []AdminRow  `json:"admin"` // the operator's orders about backends

	Certificates []CertificateRow `json:"certificates,omitempty"`

	Privileges Privileges `json:"privileges"`
}

// Privileges is what a process may do.
type Privileges struct {
	Capabilities []string `json:"capabilities"` // effective, by their names in capabilities(7)
	Bounding     []string `json:"bounding"`     // what its children can have at most
	NoNewPrivs   bool     `json:"no_new_privs"`
	Confined     bool     `json:"confined"` // to its own files and sandbox.paths, by Landlock
}

// LinkRow is a link that clients may come in by.
type LinkRow struct {
	Name    string `json:"name"`
	MTU     int    `json:"mtu"`
	Up      bool   `json:"up"`
	Program string `json:"program"` // at its ingress: tcx, clsact, and xdp; "" without
	Note    string `json:"note,omitempty"`
}

// TargetRow is what one target has made of the state.
type TargetRow struct {
	Name     string    `json:"name"`
	Revision uint64    `json:"revision"` // of the newest state that it has made
	State    string    `json:"state"`    // ok, behind or failing
	Since    time.Time `json:"since"`    // of that state
	Retries  int       `json:"retries"`  // failures since it worked last
	Drifts   uint64    `json:"drifts"`   // repaired
	Error    string    `json:"error,omitempty"`
}

// ChangeRow is a key of the configuration that a reload changes. From is "" for
// a service that is added, To for one that is removed.
type ChangeRow struct {
	Key  string `json:"key"`
	From string `json:"from"`
	To   string `json:"to"`
	Note string `json:"note,omitempty"`
}

// HandoverReport is what the kernel goes on with and a successor takes over.
type HandoverReport struct {
	Services int    `json:"services"`
	Backends int    `json:"backends"`
	Flows    int    `json:"flows"`
	Text     string `json:"text,omitempty"` // what else the operator should know
}

// AgentHandover is what an agent leaves to its successor.
type AgentHandover struct {
	State string `json:"state"` // in which the successor registers: Active, Paused and so on
	VIPs  int    `json:"vips"`
	Decap string `json:"decap"`          // kernel or userspace: where packets are taken out of the tunnel
	Text  string `json:"text,omitempty"` // what else the operator should know
}

// AgentStatus tells if an agent's machine does what the balancer wants of it.
type AgentStatus struct {
	State      string      `json:"state"` // towards the balancer: Active, Paused and so on
	Healthy    bool        `json:"healthy"`
	Summary    string      `json:"summary"` // one line for people
	Targets    []TargetRow `json:"targets"`
	Privileges Privileges  `json:"privileges"`
	Proven     string      `json:"proven,omitempty"`        // by what the session is: the key, or the names of the certificate and the begin of its SHA-256
	Admin      string      `json:"admin,omitempty"`         // what the balancer's operator orders, like drain,weight:5@web
	Refused    uint64      `json:"control_clients_refused"` // connections to the control socket without room

	Certificates []CertificateRow `json:"certificates,omitempty"`
	Warnings     []string         `json:"warnings,omitempty"` // of what is not healthy, or will not stay so
}

// TargetRows returns what targets have made of the state with a revision, and how
// many of them fail.
func TargetRows(list []reconcile.Status, want uint64) (rows []TargetRow, failing int) {
	rows = []TargetRow{}
	for _, t := range list {
		row := TargetRow{Name: t.Target, Revision: t.Revision, State: "ok", Since: t.Since, Retries: t.Retries, Drifts: t.Drifts}
		switch {
		case t.Error != nil:
			row.State, row.Error = "failing", t.Error.Error()
			failing++
		case t.Revision < want:
			row.State = "behind"
		}
		rows = append(rows, row)
	}
	return rows, failing
}
