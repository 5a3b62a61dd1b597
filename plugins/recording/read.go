package recording

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/caplance/caplance/core"
)

// Reader reads a recording.
type Reader struct {
	Header Header
	Pools  []Pool // as far as they have been read, without lookup tables
	Lost   uint64 // entries that the recorder had no room for
	Flows  uint64 // read so far
	Cut    bool   // the file ended before its end: what was read is good

	r       *bufio.Reader
	service *core.Service
	builder *core.PoolBuilder
	now     uint64
	bad     error
}

// NewReader reads the header.
//
// Errors: ErrDamaged, also for a file that is no recording at all.
func NewReader(r io.Reader) (*Reader, error) {
	in := &Reader{r: bufio.NewReader(r)}
	if magic := in.bytes(len(Magic)); string(magic) != Magic {
		return nil, fmt.Errorf("%w: it does not begin as one of version 1 (caplance policy record makes them)", ErrDamaged)
	}
	text := in.bytes(int(in.uint(maxHeader)))
	if in.bad != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrDamaged, in.bad)
	}
	if err := json.Unmarshal(text, &in.Header); err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrDamaged, err)
	}
	if h := in.Header; h.Workers < 1 || h.Workers > maxWorkers {
		return nil, fmt.Errorf("%w: header: %d workers", ErrDamaged, h.Workers)
	}
	in.service = &core.Service{Name: in.Header.Service, Seed: in.Header.Seed, Protos: []uint8{core.ProtoTCP}, Ports: []core.PortRange{core.AllPorts}}
	in.builder = core.NewPoolBuilder(in.service)
	return in, nil
}

// Next reads on to the next entry of interest; io.EOF is the end of the file.
//
// Errors: ErrDamaged.
func (r *Reader) Next(e *Entry) error {
	for {
		kind, err := r.r.ReadByte()
		switch {
		case errors.Is(err, io.EOF):
			r.Cut = true
			return io.EOF
		case err != nil:
			return fmt.Errorf("recording: %w", err)
		}
		done := false
		switch kind {
		case kindPool:
			r.pool()
		case kindFlow:
			r.flow(e)
			done = true
		case kindEnd:
			r.end(e)
			done = true
		case kindLost:
			r.Lost += r.uint(0)
		case kindLast:
			if n := r.uint(0); r.bad == nil && n != r.Flows {
				return fmt.Errorf("%w: it says that it has %d flows, and has %d", ErrDamaged, n, r.Flows)
			}
			if r.bad == nil {
				return io.EOF
			}
		default:
			return fmt.Errorf("%w: entry of unknown kind %q after %d flows", ErrDamaged, kind, r.Flows)
		}
		if r.bad != nil {
			if errors.Is(r.bad, io.ErrUnexpectedEOF) {
				r.Cut = true
				return io.EOF
			}
			return fmt.Errorf("%w: after %d flows: %w", ErrDamaged, r.Flows, r.bad)
		}
		if done {
			return nil
		}
	}
}

func (r *Reader) flow(e *Entry) {
	*e = Entry{Worker: int(r.uint(uint64(r.Header.Workers - 1))), Pool: int(r.uint(maxPools)), Index: int(r.uint(maxMembers)) - 1}
	head := r.bytes(3)
	if r.bad != nil {
		return
	}
	f := &e.Flow
	e.By, f.Family, f.Key.Proto = core.Decision(head[0]), head[1], head[2]
	at := 0
	if f.Family == 4 {
		at = 12
		f.Key.Src, f.Key.Dst = [16]byte{10: 0xff, 11: 0xff}, [16]byte{10: 0xff, 11: 0xff}
	}
	copy(f.Key.Src[at:], r.bytes(16-at))
	copy(f.Key.Dst[at:], r.bytes(16-at))
	fixed := r.bytes(12)
	if r.bad != nil {
		return
	}
	f.Key.SrcPort, f.Key.DstPort = binary.LittleEndian.Uint16(fixed), binary.LittleEndian.Uint16(fixed[2:])
	f.Rand = binary.LittleEndian.Uint64(fixed[4:])
	r.now += uint64(r.int())
	f.Now, f.Mark, f.Flags = r.now, uint32(r.uint(1<<32-1)), uint32(r.uint(1<<32-1))
	f.Hash = f.Key.Hash(r.Header.Seed)
	switch {
	case r.bad != nil:
	case e.Pool >= len(r.Pools) || e.Index >= len(r.Pools[e.Pool].Members):
		r.bad = fmt.Errorf("flow in pool %d at backend %d, which are not there", e.Pool, e.Index)
	case int(e.By) >= core.Decisions || f.Family != 4 && f.Family != 6:
		r.bad = fmt.Errorf("flow of family %d by decision %d", f.Family, e.By)
	default:
		r.Flows++
	}
}

func (r *Reader) end(e *Entry) {
	*e = Entry{Ended: true, Index: -1, Worker: int(r.uint(uint64(r.Header.Workers - 1)))}
	e.End = core.FlowEnd{Backend: core.Handle(r.uint(1<<32 - 1)), Packets: r.uint(0), Bytes: r.uint(0), Duration: r.uint(0)}
}
