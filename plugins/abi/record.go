package abi

import (
	"encoding/binary"

	"github.com/caplance/caplance/core"
)

var le = binary.LittleEndian

// Offsets of the fields of a flow record.
const (
	FlowRecordSize = 0  // u16
	FlowFamily     = 2  // u8, 4 or 6
	FlowProto      = 3  // u8, IP protocol number
	FlowSrcPort    = 4  // u16
	FlowDstPort    = 6  // u16
	FlowHash       = 8  // u64
	FlowRand       = 16 // u64
	FlowNow        = 24 // u64, ns
	FlowSrc        = 32 // 16 bytes, network order
	FlowDst        = 48 // 16 bytes, network order
	FlowService    = 64 // u32
	FlowMark       = 68 // u32
	FlowFlags      = 72 // u32
	FlowAttempt    = 76 // i32
)

// PutFlow encodes f as a flow record. Addresses are in network order, IPv4 as
// ::ffff:a.b.c.d; every number is little-endian.
func PutFlow(b *[FlowSize]byte, f *core.NewFlow) {
	// One 64-bit store for the first five fields: it is a third of the cost
	// of storing them one by one.
	le.PutUint64(b[FlowRecordSize:], FlowSize|uint64(f.Family)<<16|uint64(f.Key.Proto)<<24|
		uint64(f.Key.SrcPort)<<32|uint64(f.Key.DstPort)<<48)
	le.PutUint64(b[FlowHash:], f.Hash)
	le.PutUint64(b[FlowRand:], f.Rand)
	le.PutUint64(b[FlowNow:], f.Now)
	*(*[16]byte)(b[FlowSrc:]) = f.Key.Src
	*(*[16]byte)(b[FlowDst:]) = f.Key.Dst
	le.PutUint64(b[FlowService:], uint64(f.Service)|uint64(f.Mark)<<32)
	le.PutUint64(b[FlowFlags:], uint64(f.Flags)|uint64(uint32(f.Attempt))<<32)
}

// Offsets of the fields of a backend record.
const (
	BackendID       = 0  // u64
	BackendWeight   = 8  // u32
	BackendState    = 12 // u16
	BackendZone     = 14 // u16
	BackendAddr     = 16 // 16 bytes, network order
	BackendPort     = 32 // u16
	BackendFamily   = 34 // u16, 4 or 6
	BackendMaxFlows = 36 // u32, 0 for no limit
	BackendPriority = 40 // u32
	BackendRamp     = 44 // u32, per mille
	BackendUser     = 48 // u64
	BackendLoad     = 56 // u32, per mille, core.UnknownLoad for none
	BackendReserved = 60 // u32, 0
)

// PutBackend encodes m as a backend record. The port is 0: the flow's own.
func PutBackend(b *[BackendSize]byte, m *core.Member) {
	family := uint16(6)
	if m.Addr.Unmap().Is4() {
		family = 4
	}
	clear(b[:])
	le.PutUint64(b[BackendID:], m.ID)
	le.PutUint32(b[BackendWeight:], m.Weight)
	le.PutUint16(b[BackendState:], uint16(m.State))
	le.PutUint16(b[BackendZone:], m.Zone)
	*(*[16]byte)(b[BackendAddr:]) = m.Addr.As16()
	le.PutUint16(b[BackendFamily:], family)
	le.PutUint32(b[BackendMaxFlows:], m.MaxFlows)
	le.PutUint32(b[BackendPriority:], m.Priority)
	le.PutUint32(b[BackendRamp:], m.Ramp)
	le.PutUint64(b[BackendUser:], m.Label)
	le.PutUint32(b[BackendLoad:], m.Vitals.Load())
}

// Offsets of the fields of the record of a flow that ended.
const (
	EndPackets  = 0  // u64, from the client
	EndBytes    = 8  // u64, of these
	EndDuration = 16 // u64, ns from first to last packet
)

// PutEnd encodes e as an END record; the rest of it is 0.
func PutEnd(b *[EndSize]byte, e *core.FlowEnd) {
	clear(b[:])
	le.PutUint64(b[EndPackets:], e.Packets)
	le.PutUint64(b[EndBytes:], e.Bytes)
	le.PutUint64(b[EndDuration:], e.Duration)
}

// Offsets of the fields of the info record.
const (
	InfoWorker  = 0  // u32
	InfoWorkers = 4  // u32
	InfoSeed    = 8  // u64
	InfoEpoch   = 16 // u64
)

// Info is what an instance is told about itself.
type Info struct {
	Worker, Workers uint32 // this worker's index and the number of workers
	Seed            uint64 // differs per worker, the same in a replay
	Epoch           uint64 // grows whenever the host overwrote ACTIVE, PACKETS and BYTES
}

// PutInfo encodes i as an info record; the rest of it is 0.
func PutInfo(b *[InfoSize]byte, i Info) {
	clear(b[:])
	le.PutUint32(b[InfoWorker:], i.Worker)
	le.PutUint32(b[InfoWorkers:], i.Workers)
	le.PutUint64(b[InfoSeed:], i.Seed)
	le.PutUint64(b[InfoEpoch:], i.Epoch)
}
