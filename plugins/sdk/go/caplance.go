// Package caplance is for writing scheduling policies in Go
// (docs/policy-abi.md is normative). A policy is a type with two methods; the
// same code runs in the balancer and, for its tests, natively.
//
//	type first struct{}
//
//	func (*first) SetPool(*caplance.Pool) error                { return nil }
//	func (*first) Pick(f *caplance.Flow, p *caplance.Pool) int { return 0 }
//
//	func init() { caplance.Register(&first{}) }
//	func main() {}
//
// Build it with
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -ldflags=-s -o first.wasm
//
// A policy may have more of the ABI, by interfaces that it implements and, for
// table mode and what costs a call, by functions that it exports itself:
//
//	//go:wasmexport caplance_table
//	func table(size uint32) int32 { return caplance.FillTable(size) }
//
//	//go:wasmexport caplance_flow_end
//	func flowEnd(backend int32, _ unsafe.Pointer) { caplance.FlowEnded(backend) }
//
//	//go:wasmexport caplance_tick
//	func tick(now uint64) { caplance.Ticked(now) }
package caplance

import "unsafe"

// What Pick may answer besides an index.
const (
	NoChoice = -1 // the host's lookup table decides
	Reject   = -2 // the flow gets no backend
	UseTable = -3 // the table decides
)

// Bits of Flow.Flags; all others are reserved and zero.
const (
	SYN uint32 = 1 << iota
	Fragment
)

// Flow is a flow record.
type Flow struct {
	Size                 uint16
	Family, Protocol     uint8
	SrcPort, DstPort     uint16
	Hash, Rand, Now      uint64 // Now in ns, monotonic
	Src, Dst             [16]byte
	Service, Mark, Flags uint32
	Attempt              int32
}

// Backend is a backend record.
type Backend struct {
	ID                       uint64
	Weight                   uint32
	State, Zone              uint16
	Addr                     [16]byte
	Port, Family             uint16
	MaxFlows, Priority, Ramp uint32 // Ramp in per mille
	User                     uint64
	Load, _                  uint32 // pressure on its CPUs, per mille, or NoLoad
}

// NoLoad is the Load of a backend whose agent tells none.
const NoLoad = 1<<32 - 1

// Share returns the weight that counts in slow start, in thousandths.
func (b *Backend) Share() uint64 { return max(uint64(b.Weight)*uint64(b.Ramp), 1) }

// Info is the info record.
type Info struct {
	Worker, Workers uint32
	Seed, Epoch     uint64
	_               [5]uint64
}

// End is the record of a flow that ended.
type End struct {
	Packets, Bytes, Duration, _ uint64 // Duration in ns
}

// The sizes are those of the specification, or this does not compile.
var (
	_ [80]byte = [unsafe.Sizeof(Flow{})]byte{}
	_ [76]byte = [unsafe.Offsetof(Flow{}.Attempt)]byte{}
	_ [64]byte = [unsafe.Sizeof(Backend{})]byte{}
	_ [36]byte = [unsafe.Offsetof(Backend{}.MaxFlows)]byte{}
	_ [64]byte = [unsafe.Sizeof(Info{})]byte{}
	_ [16]byte = [unsafe.Offsetof(Info{}.Epoch)]byte{}
	_ [32]byte = [unsafe.Sizeof(End{})]byte{}
)

// Pool is what the host shows a policy. The host writes the counters between
// calls.
type Pool struct {
	Backends       []Backend
	Eligible       int      // Backends[:Eligible] may be picked
	Active         []uint32 // open flows, per backend
	Packets, Bytes []uint64 // forwarded, per backend
	Info           Info
}

// Full reports whether a backend takes no more flows; the host asks again, with
// Attempt > 0, when it is picked.
func (p *Pool) Full(i int) bool {
	most := p.Backends[i].MaxFlows
	return most != 0 && p.Active[i] >= most
}

// Policy is what an author writes.
type Policy interface {
	// SetPool is told of another pool. On an error the host picks, until the
	// next pool.
	SetPool(p *Pool) error
	// Pick is an index below p.Eligible, NoChoice, Reject or UseTable.
	Pick(f *Flow, p *Pool) int
}

// Configurer is a policy with a configuration, as JSON.
type Configurer interface{ Configure(json []byte) error }

// Tabler is a policy with a table: it writes indices of backends, or 0xFFFF.
type Tabler interface{ FillTable(slots []uint16, p *Pool) }

// Ender is a policy that is told when a flow has ended; backend is −1 when that
// has left the pool.
type Ender interface{ FlowEnded(backend int, e *End) }

// Ticker is a policy that is called once a second, with the clock of Flow.Now.
type Ticker interface{ Tick(now uint64) }

// Metered is a policy that shows up to 16 values to the operator. It needs
// caplance_tick, too.
type Metered interface {
	MetricNames() []string      // asked for once
	Metrics(values *[16]uint64) // once a second
}
