package fastpath

import (
	"net"

	"github.com/caplance/caplance/core"
)

// backend is a slot of every service: one of each kind that there is.
type backend uint16

const (
	tunnel4    backend = iota
	tunnel6            // its data IP is IPv6
	neighbour4         // a tunnel, too: the MACs are unknown
	neighbour6
	direct4
	direct6
	directNeighbour4
	directNeighbour6
	hairpin       // a tunnel by the link that the packet came in by
	hairpinDirect // the same without tunnel
	paused
	gone     // nobody has its slot now
	replaced // somebody else has
	backends
)

// handle returns the membership that flows have.
func (b backend) handle() core.Handle { return core.NewHandle(uint32(b), 1) }

// What all targets have in common.
var linkMAC = net.HardwareAddr{2, 0, 0, 0, 1, 0}

const (
	port      = 1337
	inLink    = 1    // what packets come in by in a trial: lo
	mtu4      = 1472 // of tunnels
	mtu6      = 1452
	mtuDirect = 1500
)

// target returns what the program knows of a backend. Direct ones and gone ones have
// no use for some of it.
func (b backend) target(link int) Target {
	t := Target{
		Handle: b.handle(), Addr: data4, Source: lb4, Link: link, MTU: mtu4, Port: port,
		MAC: net.HardwareAddr{2, 0, 0, 0, 2, byte(b)}, LinkMAC: linkMAC,
	}
	switch b {
	case tunnel6, neighbour6, direct6, directNeighbour6:
		t.Addr, t.Source, t.MTU = data6, lb6, mtu6
	case paused:
		t.Paused = true
	case replaced:
		t.Handle = core.NewHandle(uint32(b), 2)
	}
	switch b {
	case direct4, direct6, directNeighbour4, directNeighbour6, hairpinDirect:
		t.Direct, t.MTU = true, mtuDirect
	}
	switch b {
	case neighbour4, neighbour6, directNeighbour4, directNeighbour6:
		t.MAC, t.LinkMAC = nil, nil
	case hairpin, hairpinDirect:
		t.Link = inLink
	}
	return t
}
