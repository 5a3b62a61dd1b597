package fuel

// body is a function's code as it was found, and what is to change in it.
type body struct {
	code    []byte // instructions, the final end included
	start   int    // offset of code in the module
	groups  vector // declarations of locals, as encoded
	params  uint32
	locals  uint32 // declared
	cost    uint64 // of everything that is not in a loop
	edits   []edit // by position
	calls   bool   // it calls functions that may call it
	results []byte // types
}

// edit is a change at an offset in the module.
type edit struct {
	at     int
	kind   editKind
	amount uint64 // cost, shift or label
}

type editKind byte

const (
	editCharge editKind = iota // insert: pay amount
	editRun                    // insert: pay for the last operand, by the shift in amount
	editReturn                 // replace a return by a branch to the label
)

// readCode scans the functions (§5.5.13).
func (m *module) readCode(r *reader) {
	n := r.count("bodies", maxItems)
	if r.ok() && int(n) != len(m.funcs) {
		r.fail(ErrMalformed, "%d functions have %d bodies", len(m.funcs), n)
	}
	for i := range n {
		if !r.ok() {
			return
		}
		s := r.sub(r.u32())
		b := m.readBody(s, m.types[m.funcs[i]])
		r.done(s)
		m.bodies = append(m.bodies, b)
	}
}

func (m *module) readBody(r *reader, t funcType) body {
	b := body{params: uint32(len(t.params)), results: t.results}
	b.groups.count = r.count("groups of locals", maxFrame)
	from := r.pos
	var locals uint64
	for n := b.groups.count; n > 0 && r.ok(); n-- {
		locals += uint64(r.u32())
		r.valueType()
	}
	m.locals += locals
	if r.ok() && (locals > maxFrame || m.locals > maxLocals) {
		r.fail(ErrUnsupported, "%d locals in a function (%d so far in all), more than the %d (%d) allowed", locals, m.locals, maxFrame, maxLocals)
	}
	b.groups.rest = r.wasm[from:max(from, r.pos)]
	b.locals = uint32(locals)
	b.start = r.pos
	b.cost = locals // they are zeroed on entry
	m.scan(r, &b)
	b.code = r.wasm[b.start:max(b.start, r.end)]
	return b
}

// scan reads the instructions up to the end that closes the body. Every
// instruction counts for the innermost loop around it: between two passes of
// the loop's head it runs at most once.
func (m *module) scan(r *reader, b *body) {
	const noLoop = -1
	blocks := []int{noLoop} // of the open blocks: the edit that charges for their loop
	for len(blocks) > 0 {
		if !r.more() {
			r.fail(ErrMalformed, "unexpected end of a function")
			return
		}
		in := r.instruction()
		m.check(r, b, in, len(blocks))
		switch in.takes {
		case blockType:
			blocks = append(blocks, blocks[len(blocks)-1])
		case loopType:
			blocks = append(blocks, len(b.edits))
			b.edits = append(b.edits, edit{at: r.pos, kind: editCharge})
		case leave:
			b.edits = append(b.edits, edit{at: in.at, kind: editReturn, amount: uint64(len(blocks) - 1)})
		case function:
			if in.index < m.importedFuncs {
				in.cost = costHost
			} else {
				b.calls = true
			}
		case indirect:
			b.calls = true
		}
		if shift, ok := runs[in.code]; ok {
			b.edits = append(b.edits, edit{at: in.at, kind: editRun, amount: uint64(shift)})
		}
		if loop := blocks[len(blocks)-1]; loop != noLoop {
			b.edits[loop].amount += in.cost
		} else {
			b.cost += in.cost
		}
		if in.takes == blockEnd {
			blocks = blocks[:len(blocks)-1]
		}
	}
}

// check refuses what is invalid in this module but might not be in the
// metered one, where there are more types, globals, locals and a label.
func (m *module) check(r *reader, b *body, in instruction, open int) {
	switch in.takes {
	case label, labels:
		if int64(in.index) >= int64(open) {
			r.fail(ErrMalformed, "label %d does not exist", in.index)
		}
	case localIndex:
		if uint64(in.index) >= uint64(b.params)+uint64(b.locals) {
			r.fail(ErrMalformed, "local %d does not exist", in.index)
		}
	case globalIndex:
		if in.index >= m.globals {
			r.fail(ErrMalformed, "global %d does not exist", in.index)
		}
	case blockType, loopType:
		if in.index != noType && int64(in.index) >= int64(len(m.types)) {
			r.fail(ErrMalformed, "type %d does not exist", in.index)
		}
	case indirect:
		if int64(in.index) >= int64(len(m.types)) {
			r.fail(ErrMalformed, "type %d does not exist", in.index)
		}
	}
}
