package simulate

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/workbench/trial"
)

// Event changes the pool when a share of the flows has come.
type Event struct {
	Kind   string // kill, drain, add or weight
	Name   string // of the backend
	Weight uint32 // of add and weight
	At     float64
}

func (e Event) String() string {
	subject := e.Name
	if e.Kind == "weight" || e.Kind == "add" && e.Weight != 1 {
		subject = fmt.Sprintf("%s=%d", e.Name, e.Weight)
	}
	return fmt.Sprintf("%s %s@%g%%", e.Kind, subject, 100*e.At)
}

// ParseEvents reads "kill b3@50%; add b9=2@70%; weight b1=3@80%; drain b2@90%"
// in any order. kill takes a backend and its open flows away; drain lets those
// go on; add lets one join, or join again; weight changes a weight.
func ParseEvents(spec string) (list []Event, err error) {
	for part := range strings.SplitSeq(spec, ";") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		e, err := parseEvent(part)
		if err != nil {
			return nil, fmt.Errorf("event %q: %w", part, err)
		}
		list = append(list, e)
	}
	slices.SortStableFunc(list, func(a, b Event) int { return cmp.Compare(a.At, b.At) })
	return list, nil
}

func parseEvent(s string) (e Event, err error) {
	what, when, ok := strings.Cut(s, "@")
	kind, subject, two := strings.Cut(strings.TrimSpace(what), " ")
	if !ok || !two || !slices.Contains([]string{"kill", "drain", "add", "weight"}, kind) {
		return e, fmt.Errorf("write kill|drain|add|weight BACKEND[=WEIGHT]@PERCENT%%")
	}
	e.Kind = kind
	if e.Name, e.Weight, err = trial.ParseWeight(subject); err != nil {
		return e, err
	}
	weighted := strings.ContainsRune(subject, '=')
	if kind == "weight" && !weighted {
		return e, fmt.Errorf("weight of %s is missing: write weight %s=3", e.Name, e.Name)
	}
	if (kind == "kill" || kind == "drain") && weighted {
		return e, fmt.Errorf("%s takes no weight", kind)
	}
	percent, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(when), "%"), 64)
	if err != nil || !(percent >= 0 && percent <= 100) {
		return e, fmt.Errorf("time %q is not between 0%% and 100%%", when)
	}
	e.At = percent / 100
	return e, nil
}

// apply changes the backends.
func (e Event) apply(p *trial.Pools) error {
	b := p.Find(e.Name)
	if (b == nil) != (e.Kind == "add") && !(e.Kind == "add" && b.State == core.Draining) {
		if b == nil {
			return fmt.Errorf("event %v: there is no backend %s then", e, e.Name)
		}
		return fmt.Errorf("event %v: %s is there already", e, e.Name)
	}
	switch e.Kind {
	case "kill":
		p.Remove(e.Name)
	case "drain":
		b.State = core.Draining
	case "weight":
		b.Weight = e.Weight
	case "add":
		if b != nil {
			b.State, b.Weight = core.Active, e.Weight
			return nil
		}
		p.Backends = append(p.Backends, trial.Backend(e.Name, e.Weight))
	}
	return nil
}
