// Package protocol is the line protocol between agents and balancers, both
// ends of it: requests, replies, and the communicators that carry them as
// lines. docs/protocol.md is its definition.
//
//	req, err := protocol.Parse("REGISTER web1 10.0.0.11 weight=3")
//	…
//	comm := protocol.NewTCPCommunicator(conn, readTimeout, writeTimeout)
//	err = comm.WriteLine(protocol.Refuse(err))
package protocol

import (
	"encoding/hex"
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
	Service    Verb = "SERVICE" // how services of the backend do

	Join        Verb = "JOIN"        // the only line of one that has a token and is not known
	Connections Verb = "CONNECTIONS" // the first line of a session's second stream
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
	Offers   bool              // REGISTER offers=yes: it reads OFFER
	State    core.BackendState // REGISTER state=: Active, Paused or Draining
	Tells    bool              // REGISTER connections=yes: it tells of its TCP connections
	Proofs   bool              // REGISTER proofs=yes: it echoes PROOF datagrams
	Tag      string            // REGISTER tag=: a word that its sanity datagrams have to carry
	Checks   bool              // REGISTER checks=yes: it says how each service does
	Echoes   []Echo            // HEALTH proof=: of those that arrived since the last one
	Up       bool              // SERVICE: the services are well; Services names them, or Whole
	Reason   string            // SERVICE down: why
	Nonce    string            // SANE, and the token of CONNECTIONS
	Secret   []byte            // JOIN
	Code     int               // HEALTH: 200 is healthy, as in HTTP
	Load     string            // HEALTH load=
	Offer    uint64            // HEALTH offer=: the newest that is set up; 0 is none
}

// Parse reads a line from an agent. Unknown options are ignored. Its errors
// are what the agent is told after INVALID: one line, the agent's own words
// quoted and cut.
func Parse(line string) (req Request, err error) {
	words := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
	if len(words) == 0 {
		return Request{}, errors.New("line is empty")
	}
	req = Request{Verb: Verb(words[0])}
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
	case Join:
		if len(args) != 1 {
			return req, errors.New("JOIN takes the secret of a token")
		}
		if req.Secret, err = hex.DecodeString(args[0]); err != nil {
			return req, errors.New("secret is not hexadecimal")
		}
		return req, nil
	case Service:
		return req, req.service(args)
	case Connections:
		if len(args) != 2 {
			return req, errors.New("CONNECTIONS takes the backend's name and the token of REGISTERED")
		}
		req.Name, req.Nonce = args[0], args[1]
		return req, checkName(req.Name)
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
	case "offers":
		r.Offers = value == "yes"
	case "connections":
		r.Tells = value == "yes"
	case "tag":
		if !ValidName(value) {
			return fmt.Errorf("tag %s is not 1 to %d of A-Z a-z 0-9 . _ -", clip(value), MaxName)
		}
		r.Tag = value
	case "checks":
		r.Checks = value == "yes"
	case "proofs":
		r.Proofs = value == "yes"
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

// Whole stands for all services in SERVICE: the backend as a whole.
const Whole = "*"

func (r *Request) service(args []string) error {
	if len(args) < 2 || args[1] != "up" && args[1] != "down" {
		return errors.New("SERVICE takes names of services, or *, and up or down with the reason")
	}
	r.Services, r.Up, r.Reason = strings.Split(args[0], ","), args[1] == "up", ""
	if !r.Up {
		r.Reason = strings.Join(args[2:], " ")
	}
	for _, s := range r.Services {
		if s == Whole && len(r.Services) == 1 {
			return nil
		}
		if err := checkName(s); err != nil {
			return err
		}
	}
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
		switch key {
		case "load":
			r.Load = value
		case "offer":
			return number(key, value, &r.Offer)
		case "proof":
			return r.echoes(value)
		}
		return nil
	})
}
