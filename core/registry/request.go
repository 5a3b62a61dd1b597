package registry

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unsafe"

	"github.com/caplance/caplance/core"
)

// Verb is the first word of a line.
type Verb string

// What an agent sends; docs/protocol.md has the table.
const (
	Register   Verb = "REGISTER"
	Sane       Verb = "SANE"
	Health     Verb = "HEALTH"
	Pause      Verb = "PAUSE"
	Drain      Verb = "DRAIN"
	Resume     Verb = "RESUME"
	Deregister Verb = "DEREGISTER"
)

// DefaultWeight is the weight of a backend whose REGISTER names none; the
// largest is MaxWeight.
const (
	DefaultWeight = 1
	MaxWeight     = 65535
)

// Request is a line from an agent. Which fields count depends on the verb.
type Request struct {
	Verb     Verb
	Name     string            // REGISTER; optional in PAUSE, DRAIN, RESUME, DEREGISTER
	Addr     netip.Addr        // REGISTER: data IP
	Services []string          // REGISTER services=; nil is every one
	Weight   uint32            // REGISTER weight=
	MaxFlows uint32            // REGISTER max_flows=; 0 is no limit
	Priority uint32            // REGISTER priority=; 0 is served first
	Zone     uint16            // REGISTER zone=
	Label    uint64            // REGISTER label=
	Kernel   bool              // REGISTER decap=kernel
	Mode     core.Mode         // REGISTER mode=, 0: as the services say
	Version  int               // REGISTER v=; 1 when left out
	State    core.BackendState // REGISTER state=: Active, Paused or Draining
	Nonce    string            // SANE
	Code     int               // HEALTH: 200 is healthy, as in HTTP
	Load     string            // HEALTH load=
}

// Parse reads a line from an agent. Unknown options are ignored. Its errors
// are what the agent is told after INVALID: one line, the agent's own words
// quoted and cut.
func Parse(line string) (Request, error) {
	words := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
	if len(words) == 0 {
		return Request{}, errors.New("line is empty")
	}
	req := Request{Verb: Verb(words[0])}
	switch args := words[1:]; req.Verb {
	case Register:
		return req, req.register(args)
	case Sane:
		if len(args) != 1 {
			return req, errors.New("SANE takes the nonce of the sanity datagram")
		}
		req.Nonce = args[0]
		return req, nil
	case Health:
		return req, req.health(args)
	case Pause, Drain, Resume, Deregister:
		if len(args) > 1 {
			return req, fmt.Errorf("%s takes no more than the backend's name", req.Verb)
		}
		if len(args) == 0 {
			return req, nil
		}
		req.Name = args[0]
		return req, checkName(req.Name)
	}
	return req, fmt.Errorf("verb %s is unknown", clip(words[0]))
}

func (r *Request) register(args []string) error {
	if len(args) < 2 {
		return errors.New("REGISTER takes a name and a data IP")
	}
	r.Name, r.Weight, r.Version = args[0], DefaultWeight, 1
	if err := checkName(r.Name); err != nil {
		return err
	}
	addr, err := netip.ParseAddr(args[1])
	addr = addr.Unmap()
	if err != nil || addr.Zone() != "" || addr.IsUnspecified() || addr.IsMulticast() || addr == broadcast {
		return fmt.Errorf("data IP %s is not a unicast IP address", clip(args[1]))
	}
	r.Addr = addr
	return options(args[2:], r.registerOption)
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

func (r *Request) registerOption(key, value string) error {
	switch key {
	case "services":
		r.Services = strings.Split(value, ",")
		for _, s := range r.Services {
			if err := checkName(s); err != nil {
				return err
			}
		}
	case "weight":
		w, err := strconv.ParseUint(value, 10, 16)
		if err != nil {
			return fmt.Errorf("weight %s is not a number from 0 to %d", clip(value), MaxWeight)
		}
		r.Weight = uint32(w)
	case "max_flows":
		return number(key, value, &r.MaxFlows)
	case "priority":
		return number(key, value, &r.Priority)
	case "zone":
		return number(key, value, &r.Zone)
	case "label":
		return number(key, value, &r.Label)
	case "decap":
		r.Kernel = value == "kernel"
	case "mode":
		m, err := core.ParseMode(value)
		if err != nil {
			return fmt.Errorf("mode %s is none of tunnel, direct", clip(value))
		}
		r.Mode = m
	case "v":
		v, err := strconv.ParseUint(value, 10, 16)
		if err != nil || v == 0 {
			return fmt.Errorf("v %s is not a protocol version", clip(value))
		}
		r.Version = int(v)
	case "state":
		for _, s := range []core.BackendState{core.Active, core.Paused, core.Draining} {
			if s.String() == value {
				r.State = s
				return nil
			}
		}
		return fmt.Errorf("state %s is none of active, paused, draining", clip(value))
	}
	return nil
}

// number reads an option for policies into an unsigned integer.
func number[T uint16 | uint32 | uint64](key, value string, into *T) error {
	bits := int(unsafe.Sizeof(*into)) * 8
	n, err := strconv.ParseUint(value, 10, bits)
	if err != nil {
		return fmt.Errorf("%s %s is not a number from 0 to 2^%d-1", key, clip(value), bits)
	}
	*into = T(n)
	return nil
}

func (r *Request) health(args []string) error {
	if len(args) == 0 {
		return errors.New("HEALTH takes a code (200 is healthy)")
	}
	code, err := strconv.ParseUint(args[0], 10, 16)
	if err != nil || code > 999 {
		return fmt.Errorf("code %s is not a number from 0 to 999", clip(args[0]))
	}
	r.Code = int(code)
	return options(args[1:], func(key, value string) error {
		if key == "load" {
			r.Load = value
		}
		return nil
	})
}
