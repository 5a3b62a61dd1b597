// Package abi is version 1 of the contract between the balancer and a
// scheduling policy: the names and signatures of the exports, the numbers of
// the slots, the return codes of a pick and the layout of the records. It
// mirrors docs/policy-abi.md, which is normative, and knows of no WebAssembly
// runtime.
//
//	var record [abi.FlowSize]byte
//	abi.PutFlow(&record, &flow)
package abi

// ValueType is a WebAssembly value type in the binary format's encoding
// (WebAssembly Core Specification 2.0, §5.3.1).
type ValueType = byte

// The value types that the ABI uses.
const (
	I32 ValueType = 0x7f
	I64 ValueType = 0x7e
)

// Memory is the export name of the guest's one linear memory.
const Memory = "memory"

// Prefix is how the names of the exported functions begin. Others by it are refused.
const Prefix = "caplance_"

// Names of the exported functions.
const (
	Marker   = "caplance_abi_v1"
	Buffer   = "caplance_buffer"
	Backends = "caplance_backends"
	Pick     = "caplance_pick"
	Table    = "caplance_table"
	Config   = "caplance_config"
	FlowEnd  = "caplance_flow_end"
	Tick     = "caplance_tick"
)

// Export is one function that a policy exports.
type Export struct {
	Name            string
	Params, Results []ValueType
	Optional        bool
}

// Exports is every function of the ABI, the required ones first. An optional
// one that is exported must have the signature given here.
var Exports = []Export{
	{Name: Marker},
	{Name: Buffer, Params: []ValueType{I32, I32}, Results: []ValueType{I32}},
	{Name: Backends, Params: []ValueType{I32, I32}, Results: []ValueType{I32}},
	{Name: Pick, Params: []ValueType{I64, I32}, Results: []ValueType{I32}},
	{Name: Table, Params: []ValueType{I32}, Results: []ValueType{I32}, Optional: true},
	{Name: Config, Params: []ValueType{I32}, Results: []ValueType{I32}, Optional: true},
	{Name: FlowEnd, Params: []ValueType{I32, I32}, Optional: true},
	{Name: Tick, Params: []ValueType{I64}, Optional: true},
}

// Slot names a buffer that the guest hands out through caplance_buffer.
type Slot uint32

// The slots. n is the number of entries in BACKENDS.
const (
	SlotConfig   Slot = 1  // the policy's configuration as JSON, as long as it is
	SlotFlow     Slot = 2  // one flow record, FlowSize bytes
	SlotBackends Slot = 3  // n backend records of BackendSize bytes
	SlotActive   Slot = 4  // n × u32, open flows
	SlotPackets  Slot = 5  // n × u64, packets forwarded
	SlotBytes    Slot = 6  // n × u64, bytes forwarded
	SlotTable    Slot = 7  // u16 per lookup-table slot, 0xFFFF empty
	SlotEnd      Slot = 8  // one record of a flow that ended, EndSize bytes
	SlotMetrics  Slot = 9  // up to MaxMetrics × u64, written by the guest
	SlotInfo     Slot = 10 // one info record, InfoSize bytes
	SlotNames    Slot = 11 // names of the metrics, each ended by a zero byte, written by the guest
	MaxSlot           = SlotNames
)

var slotNames = [...]string{"0", "CONFIG", "FLOW", "BACKENDS", "ACTIVE", "PACKETS", "BYTES", "TABLE", "END", "METRICS", "INFO", "NAMES"}

func (s Slot) String() string { return slotNames[s] }

// Sizes of the records and limits of the slots, in bytes where not said
// otherwise.
const (
	FlowSize    = 80
	BackendSize = 64
	InfoSize    = 64
	EndSize     = 32
	MaxMetrics  = 16 // entries
	NamesSize   = 512
	Align       = 8 // of every buffer
)

// What caplance_pick answers besides an index.
const (
	NoChoice int32 = -1 // the host's lookup table decides
	Reject   int32 = -2 // the flow gets no backend
	UseTable int32 = -3 // the table of caplance_table decides; the host's, if there is none
)
