package fuel

import "encoding/binary"

// writer appends the primitives of the binary format (§5.2).
type writer struct{ b []byte }

func (w *writer) byte(b ...byte)   { w.b = append(w.b, b...) }
func (w *writer) bytes(b []byte)   { w.b = append(w.b, b...) }
func (w *writer) u32(v uint32)     { w.b = binary.AppendUvarint(w.b, uint64(v)) }
func (w *writer) vector(b []byte)  { w.u32(uint32(len(b))); w.bytes(b) }
func (w *writer) name(name string) { w.vector([]byte(name)) }

// s64 writes a signed LEB128 number.
func (w *writer) s64(v int64) {
	for ; v < -64 || v > 63; v >>= 7 {
		w.byte(byte(v) | 0x80)
	}
	w.byte(byte(v) & 0x7f)
}

// section writes a section with its size.
func (w *writer) section(id byte, body []byte) {
	w.byte(id)
	w.vector(body)
}
