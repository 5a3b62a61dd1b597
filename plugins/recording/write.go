package recording

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/abi"
)

// Writer writes a recording. After an error it does nothing; Close tells it.
type Writer struct {
	w     *bufio.Writer
	buf   []byte
	pools map[uint64]uint64 // numbers by Pool.Version: the pools themselves are large
	last  uint64            // Now of the flow before
	flows uint64
	err   error
}

// NewWriter writes the header.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	text, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("recording: %w", err)
	}
	out := &Writer{w: bufio.NewWriter(w), pools: map[uint64]uint64{}}
	out.buf = binary.AppendUvarint([]byte(Magic), uint64(len(text)))
	out.put(append(out.buf, text...))
	return out, out.Flush()
}

func (w *Writer) put(b []byte) {
	if w.err == nil {
		_, w.err = w.w.Write(b)
	}
	w.buf = b[:0]
}

// Flush hands on what was written so far.
func (w *Writer) Flush() error {
	if w.err == nil {
		w.err = w.w.Flush()
	}
	if w.err != nil {
		return fmt.Errorf("recording: %w", w.err)
	}
	return nil
}

// Flows returns how many flows have been written.
func (w *Writer) Flows() uint64 { return w.flows }

// Close writes the end; it does not close the file.
func (w *Writer) Close() error {
	w.put(binary.AppendUvarint(append(w.buf, kindLast), w.flows))
	return w.Flush()
}

// Pick writes a flow that was placed.
func (w *Writer) Pick(worker int, p *core.Pool, f *core.NewFlow, index int, by core.Decision) {
	pool := w.pool(p)
	b := append(w.buf, kindFlow)
	b = binary.AppendUvarint(b, uint64(worker))
	b = binary.AppendUvarint(b, pool)
	b = binary.AppendUvarint(b, uint64(index+1))
	b = append(b, byte(by), f.Family, f.Key.Proto)
	at := 0
	if f.Family == 4 {
		at = 12
	}
	b = append(append(b, f.Key.Src[at:]...), f.Key.Dst[at:]...)
	b = binary.LittleEndian.AppendUint16(b, f.Key.SrcPort)
	b = binary.LittleEndian.AppendUint16(b, f.Key.DstPort)
	b = binary.LittleEndian.AppendUint64(b, f.Rand)
	b = binary.AppendVarint(b, int64(f.Now-w.last))
	b = binary.AppendUvarint(b, uint64(f.Mark))
	b = binary.AppendUvarint(b, uint64(f.Flags))
	w.last = f.Now
	w.flows++
	w.put(b)
}

// pool writes a pool that is new to the recording; it returns its number.
func (w *Writer) pool(p *core.Pool) uint64 {
	if n, ok := w.pools[p.Version]; ok {
		return n
	}
	n := uint64(len(w.pools))
	w.pools[p.Version] = n
	b := append(w.buf, kindPool)
	b = binary.AppendUvarint(b, uint64(len(p.Members)))
	b = binary.AppendUvarint(b, uint64(p.Eligible))
	var record [abi.BackendSize]byte
	for i := range p.Members {
		m := &p.Members[i]
		abi.PutBackend(&record, m)
		b = binary.AppendUvarint(b, uint64(m.Handle))
		b = binary.AppendUvarint(b, uint64(len(m.Name)))
		b = append(append(b, m.Name...), record[:]...)
	}
	w.put(b)
	return n
}

// End writes a flow that ended.
func (w *Writer) End(worker int, e *core.FlowEnd) {
	b := append(w.buf, kindEnd)
	for _, v := range []uint64{uint64(worker), uint64(e.Backend), e.Packets, e.Bytes, e.Duration} {
		b = binary.AppendUvarint(b, v)
	}
	w.put(b)
}

// Lost writes that entries are missing here.
func (w *Writer) Lost(n uint64) {
	if n > 0 {
		w.put(binary.AppendUvarint(append(w.buf, kindLost), n))
	}
}
