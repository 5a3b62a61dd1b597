package fuel

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// reader decodes the primitives of the binary format (WebAssembly Core
// Specification 2.0, §5.2). After the first error everything reads as zero and
// the rest is empty, so that loops over a count must look at ok.
type reader struct {
	wasm []byte // the whole module: offsets in messages are into it
	pos  int
	end  int // of what this reader may read
	err  error
}

func (r *reader) ok() bool   { return r.err == nil }
func (r *reader) left() int  { return r.end - r.pos }
func (r *reader) more() bool { return r.ok() && r.pos < r.end }

// fail keeps the first error and its place.
func (r *reader) fail(kind error, format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s at offset %#x", kind, fmt.Sprintf(format, args...), r.pos)
	}
	r.pos = r.end
}

// skip passes n bytes and returns them.
func (r *reader) skip(n uint64) []byte {
	if n > uint64(r.left()) {
		r.fail(ErrMalformed, "unexpected end")
		return nil
	}
	b := r.wasm[r.pos : r.pos+int(n)]
	r.pos += int(n)
	return b
}

func (r *reader) byte() byte {
	if b := r.skip(1); b != nil {
		return b[0]
	}
	return 0
}

// u32 reads an unsigned LEB128 number of at most 32 bits (§5.2.2).
func (r *reader) u32() uint32 {
	v, n := binary.Uvarint(r.wasm[r.pos:min(r.end, r.pos+5)])
	if n <= 0 || v>>32 != 0 {
		r.fail(ErrMalformed, "number is cut short or too large")
		return 0
	}
	r.pos += n
	return uint32(v)
}

// leb passes a LEB128 number of at most size bytes, whatever its value.
func (r *reader) leb(size int) {
	for range size {
		if r.byte() < 0x80 {
			return
		}
	}
	r.fail(ErrMalformed, "number is too long")
}

// count reads the length of a vector whose elements have at least one byte,
// so that no one allocates for more than there can be.
func (r *reader) count(what string, limit uint32) uint32 {
	n := r.u32()
	switch {
	case int64(n) > int64(r.left()):
		r.fail(ErrMalformed, "%d %s do not fit into their section", n, what)
		return 0
	case n > limit:
		r.fail(ErrUnsupported, "%d %s, more than the %d allowed", n, what, limit)
		return 0
	}
	return n
}

// name reads a UTF-8 string (§5.2.4).
func (r *reader) name() string {
	b := r.skip(uint64(r.u32()))
	if !utf8.Valid(b) {
		r.fail(ErrMalformed, "name is not UTF-8")
	}
	return string(b)
}

// sub returns a reader of the next n bytes, which are passed.
func (r *reader) sub(n uint32) *reader {
	s := &reader{wasm: r.wasm, pos: r.pos}
	r.skip(uint64(n))
	s.end, s.err = max(r.pos, s.pos), r.err
	return s
}

// done ends the reading of a sub-reader: its error is ours, and so is what it
// left over.
func (r *reader) done(s *reader) {
	if s.more() {
		s.fail(ErrMalformed, "%d bytes too many", s.left())
	}
	if s.err != nil && r.err == nil {
		r.err = s.err
		r.pos = r.end
	}
}
