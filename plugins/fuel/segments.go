package fuel

// expression passes a constant expression (§5.4.9). Which instructions may be
// in it is the engine's to check; which globals, ours.
func (m *module) expression(r *reader) {
	for r.ok() {
		switch in := r.instruction(); in.takes {
		case blockEnd:
			return
		case const32, const64, bytes4, bytes8, bytes16, heapType, funcRef:
		case globalIndex:
			if in.index >= m.globals {
				r.fail(ErrMalformed, "global %d does not exist", in.index)
			}
		default:
			r.fail(ErrUnsupported, "instruction %#x in a constant expression is not of WebAssembly 2.0", in.code)
		}
	}
}

// readElements passes the element segments (§5.5.12). The three low bits of
// the flags say what a segment has: 1 passive or declarative, 2 a table index
// or declarative, 4 expressions in place of function indices.
func (m *module) readElements(r *reader) {
	for n := r.count("element segments", maxItems); n > 0 && r.ok(); n-- {
		flags := r.u32()
		if flags > 7 {
			r.fail(ErrUnsupported, "element segment of kind %d is not of WebAssembly 2.0", flags)
			return
		}
		active, expressions := flags&1 == 0, flags&4 != 0
		if active && flags&2 != 0 {
			r.u32() // table
		}
		if active {
			m.expression(r) // offset
		}
		switch {
		case flags&3 == 0:
		case expressions:
			r.refType()
		default:
			r.byte() // kind of element
		}
		entries := r.count("elements", maxElements)
		if m.elements += uint64(entries); m.elements > maxElements {
			r.fail(ErrUnsupported, "element segments have more than the %d entries allowed", maxElements)
		}
		for ; entries > 0 && r.ok(); entries-- {
			if expressions {
				m.expression(r)
			} else {
				r.u32()
			}
		}
	}
}

// readData passes the data segments (§5.5.14).
func (m *module) readData(r *reader) {
	for n := r.count("data segments", maxItems); n > 0 && r.ok(); n-- {
		flags := r.u32()
		if flags > 2 {
			r.fail(ErrUnsupported, "data segment of kind %d is not of WebAssembly 2.0", flags)
		}
		if flags == 2 {
			r.u32() // memory
		}
		if flags != 1 {
			m.expression(r) // offset
		}
		r.skip(uint64(r.u32()))
	}
}
