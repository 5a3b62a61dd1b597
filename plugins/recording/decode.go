package recording

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/abi"
)

// pool reads a pool and makes one like it.
func (r *Reader) pool() {
	if len(r.Pools) == maxPools {
		r.bad = fmt.Errorf("pools are more than the %d that flows can name", maxPools)
	}
	n, eligible := int(r.uint(maxMembers)), int(r.uint(maxMembers))
	backends, records, byName := []core.Backend{}, [][]byte{}, map[string]core.Handle{}
	for range n {
		handle, name := core.Handle(r.uint(1<<32-1)), string(r.bytes(int(r.uint(maxName))))
		b := r.bytes(abi.BackendSize)
		if r.bad != nil {
			return
		}
		// Another handle is another membership, as another time is for the builder.
		backends = append(backends, core.Backend{
			Name: name, Since: time.Unix(int64(handle), 0), Weight: binary.LittleEndian.Uint32(b[abi.BackendWeight:]),
			State:    core.BackendState(min(binary.LittleEndian.Uint16(b[abi.BackendState:]), uint16(core.Unreachable))),
			Zone:     binary.LittleEndian.Uint16(b[abi.BackendZone:]),
			Addr:     netip.AddrFrom16([16]byte(b[abi.BackendAddr:])).Unmap(),
			MaxFlows: binary.LittleEndian.Uint32(b[abi.BackendMaxFlows:]),
			Priority: binary.LittleEndian.Uint32(b[abi.BackendPriority:]),
			Label:    binary.LittleEndian.Uint64(b[abi.BackendUser:]),
			Vitals:   vitals(binary.LittleEndian.Uint32(b[abi.BackendLoad:])),
		})
		records, byName[name] = append(records, b), handle
	}
	if r.bad != nil {
		return
	}
	p := Pool{Pool: r.builder.Assemble(backends)}
	if p.Eligible != eligible || len(byName) != n {
		r.bad = fmt.Errorf("pool %d says that %d of %d backends are eligible, and %d are", len(r.Pools), eligible, n, p.Eligible)
		return
	}
	for i := range p.Members {
		if p.Members[i].Name != backends[i].Name {
			r.bad = fmt.Errorf("pool %d is out of order at backend %d", len(r.Pools), i)
			return
		}
		p.Members[i].Ramp = binary.LittleEndian.Uint32(records[i][abi.BackendRamp:])
		p.Handles = append(p.Handles, byName[p.Members[i].Name])
	}
	r.Pools = append(r.Pools, p)
}

// vitals returns those of a backend with a load in thousandths.
func vitals(load uint32) *core.Vitals {
	v := new(core.Vitals)
	if load <= 1000 {
		v.SetLoad(load)
	}
	return v
}

// uint reads a number up to most; 0 is any. After the first error everything
// reads as zero.
func (r *Reader) uint(most uint64) uint64 {
	if r.bad != nil {
		return 0
	}
	v, err := binary.ReadUvarint(r.r)
	switch {
	case err != nil:
		r.fail(err)
		return 0
	case most > 0 && v > most:
		r.bad = fmt.Errorf("number %d is above %d", v, most)
		return 0
	}
	return v
}

func (r *Reader) int() int64 {
	if r.bad != nil {
		return 0
	}
	v, err := binary.ReadVarint(r.r)
	if err != nil {
		r.fail(err)
		return 0
	}
	return v
}

func (r *Reader) bytes(n int) []byte {
	b := make([]byte, n)
	if r.bad != nil {
		return b
	}
	if _, err := io.ReadFull(r.r, b); err != nil {
		r.fail(err)
	}
	return b
}

func (r *Reader) fail(err error) {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	r.bad = err
}
