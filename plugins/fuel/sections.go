package fuel

// What a module may have, so that no small file makes the engine allocate for
// a large one. Compilers stay far below: a standard Go guest has 5 000
// functions with 80 000 locals.
const (
	maxItems    = 100_000 // types, imports, functions, globals, exports, segments
	maxArity    = 1_000   // parameters, results of a function
	maxArities  = 1 << 16 // of all types: the engine names each type in a time that is quadratic in its own
	maxTables   = 16
	maxElements = 1 << 20 // entries of element segments
	maxLocals   = 1 << 20 // of all functions
	maxFrame    = 50_000  // locals of a function, as in browsers
)

// External kinds (§5.5.5, §5.5.10).
const (
	kindFunc   = 0
	kindTable  = 1
	kindMemory = 2
	kindGlobal = 3
)

// Value types (§5.3.1–5.3.4).
const (
	typeI32       = 0x7f
	typeI64       = 0x7e
	typeV128      = 0x7b
	typeFuncref   = 0x70
	typeExternref = 0x6f
	typeEmpty     = 0x40 // of a block without results
)

func isValueType(t byte) bool { return typeV128 <= t && t <= typeI32 || isRefType(t) }
func isRefType(t byte) bool   { return t == typeFuncref || t == typeExternref }

// index reads an index below n.
func (r *reader) index(what string, n int) uint32 {
	i := r.u32()
	if r.ok() && int64(i) >= int64(n) {
		r.fail(ErrMalformed, "%s %d does not exist", what, i)
		return 0
	}
	return i
}

func (r *reader) valueType() byte {
	t := r.byte()
	if r.ok() && !isValueType(t) {
		r.fail(ErrUnsupported, "value type %#x is not of WebAssembly 2.0", t)
	}
	return t
}

func (r *reader) refType() byte {
	t := r.byte()
	if r.ok() && !isRefType(t) {
		r.fail(ErrUnsupported, "reference type %#x is not of WebAssembly 2.0", t)
	}
	return t
}

// limits of a memory or a table (§5.3.7); max is −1 without one.
func (r *reader) limits() (low uint32, high int64) {
	flags := r.byte()
	if flags > 1 {
		r.fail(ErrUnsupported, "limits of kind %#x (shared or 64 bits) are not of WebAssembly 2.0", flags)
	}
	low, high = r.u32(), -1
	if flags == 1 {
		high = int64(r.u32())
	}
	if r.ok() && high >= 0 && int64(low) > high {
		r.fail(ErrMalformed, "minimum %d is larger than maximum %d", low, high)
	}
	return low, high
}

func (m *module) readTypes(r *reader) {
	list := func(what string) []byte {
		n := r.count(what, maxArity)
		from := r.pos
		for ; n > 0 && r.ok(); n-- {
			r.valueType()
		}
		return r.wasm[from:max(from, r.pos)]
	}
	arities := uint64(0)
	for n := r.count("types", maxItems); n > 0 && r.ok(); n-- {
		if form := r.byte(); r.ok() && form != 0x60 {
			r.fail(ErrUnsupported, "type of form %#x is not of WebAssembly 2.0", form)
		}
		t := funcType{params: list("parameters"), results: list("results")}
		if arities += t.arity(); arities > maxArities {
			r.fail(ErrHeavy, "types have more than %d parameters and results in all", maxArities)
		}
		m.types = append(m.types, t)
	}
}

func (m *module) readImports(r *reader) {
	for n := r.count("imports", maxItems); n > 0 && r.ok(); n-- {
		r.name()
		r.name()
		switch kind := r.byte(); kind {
		case kindFunc:
			m.imported = append(m.imported, r.index("type", len(m.types)))
		case kindTable:
			r.refType()
			r.limits()
		case kindMemory:
			r.limits()
		case kindGlobal:
			r.valueType()
			r.byte() // mutability
			m.globals++
		default:
			r.fail(ErrUnsupported, "import of kind %#x is not of WebAssembly 2.0", kind)
		}
	}
}

func (m *module) readTables(r *reader, size uint32) {
	for n := r.count("tables", maxTables); n > 0 && r.ok(); n-- {
		t := table{element: r.refType()}
		low, high := r.limits()
		if r.ok() && low > size {
			r.fail(ErrUnsupported, "table starts with %d entries, more than the %d allowed", low, size)
		}
		t.min, t.max = low, size
		if high >= 0 {
			t.max = uint32(min(high, int64(size)))
		}
		m.tables = append(m.tables, t)
	}
}

func (m *module) readGlobals(r *reader) {
	m.globalDefs.count = r.count("globals", maxItems)
	m.globalDefs.rest = r.wasm[r.pos:r.end]
	for n := m.globalDefs.count; n > 0 && r.ok(); n-- {
		r.valueType()
		r.byte() // mutability
		m.expression(r)
	}
	m.globals += m.globalDefs.count
}

func (m *module) readExports(r *reader) {
	m.exports.count = r.count("exports", maxItems)
	m.exports.rest = r.wasm[r.pos:r.end]
	for n := m.exports.count; n > 0 && r.ok(); n-- {
		if name := r.name(); name == FuelExport || name == DepthExport {
			r.fail(ErrReserved, "%q", name)
		}
		switch kind := r.byte(); kind {
		case kindGlobal:
			r.index("global", int(m.globals))
		case kindFunc, kindTable, kindMemory:
			r.u32()
		default:
			r.fail(ErrUnsupported, "export of kind %#x is not of WebAssembly 2.0", kind)
		}
	}
}
