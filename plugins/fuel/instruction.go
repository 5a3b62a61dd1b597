package fuel

import "iter"

// instruction is one that was read.
type instruction struct {
	at    int       // its offset in the module
	code  uint16    // its opcode, with the prefix in the high byte
	takes immediate // what followed
	cost  uint64    // units of fuel
	index uint32    // what it names, of br_table the largest label
}

// instruction reads the next instruction with its immediates (§5.4).
func (r *reader) instruction() instruction {
	in := instruction{at: r.pos}
	code := r.byte()
	op := opcodes[code]
	in.code = uint16(code)
	switch op.takes {
	case prefixMisc:
		op, in.code = r.prefixed(code, &miscOpcodes)
	case prefixVector:
		op, in.code = r.prefixed(code, &vectorOpcodes)
	}
	in.takes, in.cost = op.takes, max(costPlain, uint64(op.cost))
	r.immediate(&in)
	if in.takes == unknown && r.ok() {
		r.pos = in.at
		r.fail(ErrUnsupported, "instruction %#x is not of WebAssembly 2.0", in.code)
	}
	return in
}

// prefixed reads the second part of an opcode. It is a LEB128 number, but the
// engine's validator takes one byte for vectors, and so would see another
// instruction than we do in a number that is longer than it must be: only the
// shortest form passes.
func (r *reader) prefixed(prefix byte, table *[256]opcode) (opcode, uint16) {
	from := r.pos
	code := r.u32()
	if long := r.pos - from; r.ok() && (code > 0xff || long > 2 || long == 2 && code < 0x80) {
		r.fail(ErrUnsupported, "instruction %#x %#x is not of WebAssembly 2.0 or not in its shortest form", prefix, code)
		return opcode{}, 0
	}
	return table[byte(code)], uint16(prefix)<<8 | uint16(code)
}

// immediate reads what follows the opcode.
func (r *reader) immediate(in *instruction) {
	switch in.takes {
	case label, function, funcRef, localIndex, globalIndex, tableIndex, segment:
		in.index = r.u32()
	case blockType, loopType:
		in.index = r.blockType()
	case labels:
		for n := r.count("labels", uint32(r.left())) + 1; n > 0 && r.ok(); n-- {
			in.index = max(in.index, r.u32())
		}
	case indirect, twoIndices:
		in.index = r.u32()
		r.u32()
	case typeList:
		for n := r.count("types", maxArity); n > 0 && r.ok(); n-- {
			r.valueType()
		}
	case heapType:
		r.refType()
	case memArg:
		r.u32()
		r.u32()
	case memArgLane:
		r.u32()
		r.u32()
		r.byte()
	case segmentZero:
		in.index = r.u32()
		r.zeros(1)
	case zero:
		r.zeros(1)
	case zeroZero:
		r.zeros(2)
	case const32:
		r.leb(5)
	case const64:
		r.leb(10)
	case bytes4:
		r.skip(4)
	case bytes8:
		r.skip(8)
	case bytes16:
		r.skip(16)
	case lane:
		r.byte()
	}
}

// labelsOf yields the labels of a br_table that was read.
func (r *reader) labelsOf(in instruction) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		s := &reader{wasm: r.wasm, pos: in.at + 1, end: r.pos}
		s.u32() // how many there are, but the default
		for s.more() && yield(s.u32()) {
		}
	}
}

// noType is the index for a block type that names no function type.
const noType = 1<<32 - 1

// blockType reads the type of a block (§5.4.1): nothing, a value type or the
// index of a function type as a signed number of 33 bits, which is returned.
func (r *reader) blockType() uint32 {
	if r.more() {
		if c := r.wasm[r.pos]; c == typeEmpty || isValueType(c) {
			r.pos++
			return noType
		}
	}
	from := r.pos
	r.leb(5)
	var v uint64
	for i, c := range r.wasm[from:max(from, r.pos)] {
		v |= uint64(c&0x7f) << (7 * i)
	}
	// The sign is bit 6 of the last byte: a negative number is no index.
	if r.ok() && (r.wasm[r.pos-1]&0x40 != 0 || v >= noType) {
		r.fail(ErrUnsupported, "block type is not of WebAssembly 2.0")
	}
	return uint32(v)
}

// zeros reads n memory indices, of which there is but one, in one byte each.
func (r *reader) zeros(n uint64) {
	for _, b := range r.skip(n) {
		if b != 0 {
			r.fail(ErrUnsupported, "memory %d is not of WebAssembly 2.0", b)
		}
	}
}
