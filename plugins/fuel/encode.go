package fuel

// encode writes the metered module: the sections in their order, most of them
// as they were.
func (m *module) encode(opt Options) ([]byte, error) {
	var out writer
	out.bytes(preamble)
	code := m.encodeCode() // first, for the types that it adds
	for _, id := range order {
		body := m.sections[id]
		switch id {
		case sectionType:
			if body != nil {
				body = m.encodeTypes()
			}
		case sectionTable:
			if body != nil {
				body = m.encodeTables()
			}
		case sectionGlobal:
			body = m.encodeGlobals(opt)
		case sectionExport:
			body = m.encodeExports()
		case sectionCode:
			if body != nil {
				body = code
			}
		}
		if body != nil {
			out.section(id, body)
		}
	}
	if m.names != nil {
		var names writer
		names.name(nameSection)
		names.section(namesOfFuncs, m.names)
		out.section(sectionCustom, names.b)
	}
	return out.b, nil
}

func (m *module) encodeTypes() []byte {
	var w writer
	w.u32(uint32(len(m.types)))
	for _, t := range m.types {
		w.byte(0x60)
		w.vector(t.params)
		w.vector(t.results)
	}
	return w.b
}

// encodeTables gives every table a maximum.
func (m *module) encodeTables() []byte {
	var w writer
	w.u32(uint32(len(m.tables)))
	for _, t := range m.tables {
		w.byte(t.element, 1)
		w.u32(t.min)
		w.u32(t.max)
	}
	return w.b
}

// The budgets come after the module's own globals, whose indices stay.
func (m *module) fuelGlobal() uint32  { return m.globals }
func (m *module) depthGlobal() uint32 { return m.globals + 1 }

func (m *module) encodeGlobals(opt Options) []byte {
	var w inserter
	w.u32(m.globalDefs.count + 2)
	w.bytes(m.globalDefs.rest)
	for _, budget := range []int64{opt.Fuel, opt.Depth} {
		w.byte(typeI64, 1) // mutable
		w.constant(budget)
		w.byte(opEnd)
	}
	return w.b
}

func (m *module) encodeExports() []byte {
	var w writer
	w.u32(m.exports.count + 2)
	w.bytes(m.exports.rest)
	w.name(FuelExport)
	w.byte(kindGlobal)
	w.u32(m.fuelGlobal())
	w.name(DepthExport)
	w.byte(kindGlobal)
	w.u32(m.depthGlobal())
	return w.b
}

func (m *module) encodeCode() []byte {
	var w writer
	w.u32(uint32(len(m.bodies)))
	for i := range m.bodies {
		w.vector(m.encodeBody(&m.bodies[i]))
	}
	return w.b
}

// encodeBody writes a function. One that calls others becomes
//
//	charge; descend; (block (result …) body with "br" for "return") ascend
//
// so that every way out but a trap leads past ascend: the block's label has the
// number that the function's own had, and the same types.
func (m *module) encodeBody(b *body) []byte {
	w := &inserter{fuel: m.fuelGlobal(), depth: m.depthGlobal(), rest: b.params + b.locals}
	w.length = w.rest + 1
	w.b = make([]byte, 0, len(b.code)+len(b.groups.rest)+32*len(b.edits)+64)
	w.u32(b.groups.count + 2)
	w.bytes(b.groups.rest)
	w.byte(1, typeI64, 1, typeI32)
	w.charge(b.cost)
	if b.calls {
		w.descend()
		w.byte(opBlock)
		w.bytes(m.resultType(b.results))
	}
	done := 0
	for _, e := range b.edits {
		if e.kind == editReturn && !b.calls {
			continue
		}
		at := e.at - b.start
		w.bytes(b.code[done:at])
		done = at
		switch e.kind {
		case editCharge:
			w.charge(e.amount)
		case editRun:
			w.chargeRun(int(e.amount))
		case editReturn:
			w.op(opBr, uint32(e.amount))
			done++
		}
	}
	w.bytes(b.code[done:])
	if b.calls {
		w.ascend()
		w.byte(opEnd)
	}
	return w.b
}

// resultType returns the type of a block without parameters and with these results
// (§5.4.1): two or more need a function type, which is added once.
func (m *module) resultType(results []byte) []byte {
	switch len(results) {
	case 0:
		return []byte{typeEmpty}
	case 1:
		return results
	}
	at, ok := m.resultTypes[string(results)]
	if !ok {
		at = len(m.types)
		m.types = append(m.types, funcType{results: results})
		m.resultTypes[string(results)] = at
	}
	var w writer
	w.s64(int64(at))
	return w.b
}
