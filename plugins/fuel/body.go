package fuel

// body is a function's code as it was found, and what is to change in it.
type body struct {
	code    []byte // instructions, the final end included
	start   int    // offset of code in the module
	index   uint32 // of the function
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
		b := m.readBody(s, m.importedFuncs()+i)
		r.done(s)
		m.bodies = append(m.bodies, b)
	}
}

func (m *module) readBody(r *reader, index uint32) body {
	t := m.signature(index)
	b := body{index: index, params: uint32(len(t.params)), results: t.results}
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
	m.work.begin(locals + uint64(b.params))
	m.scan(r, &b)
	b.code = r.wasm[b.start:max(b.start, r.end)]
	return b
}

// block is one that is open at some point of a body.
type block struct {
	pays   int    // the edit that charges for the code at that point; entry is none
	target bool   // of a br_table
	arity  uint64 // values that a branch to it brings along
}

// entry is what a function pays when it is entered.
const entry = -1

// scan reads the instructions up to the end that closes the body.
//
// Every instruction is paid for by the nearest charge that must come before it,
// and that comes again before it runs again: the entry of the function, the
// head of the innermost loop around it or, in a loop, the end of a block before
// it that a br_table leads to. Without the last, a state machine, as Go makes
// one out of every function, would pay for all of its states at every step.
func (m *module) scan(r *reader, b *body) {
	blocks := []block{{pays: entry, arity: uint64(len(b.results))}}
	for len(blocks) > 0 {
		if !r.more() {
			r.fail(ErrMalformed, "unexpected end of a function")
			return
		}
		in := r.instruction()
		m.check(r, b, in, len(blocks))
		if r.ok() {
			m.weigh(r, b, in, blocks)
		}
		if !r.ok() {
			return
		}
		top := &blocks[len(blocks)-1]
		switch in.takes {
		case function:
			b.calls = b.calls || in.index >= m.importedFuncs()
		case indirect:
			b.calls = true
		case leave:
			b.edits = append(b.edits, edit{at: in.at, kind: editReturn, amount: uint64(len(blocks) - 1)})
		case labels:
			for l := range r.labelsOf(in) {
				blocks[len(blocks)-1-int(l)].target = true
			}
		}
		if shift, ok := runs[in.code]; ok {
			b.edits = append(b.edits, edit{at: in.at, kind: editRun, amount: uint64(shift)})
		}
		if top.pays == entry {
			b.cost += in.cost
		} else {
			b.edits[top.pays].amount += in.cost
		}
		switch in.takes {
		case blockType:
			blocks = append(blocks, block{pays: top.pays, arity: uint64(len(m.blockType(r, in).results))})
		case loopType:
			blocks = append(blocks, block{pays: b.charge(r.pos), arity: uint64(len(m.blockType(r, in).params))})
		case elseMark: // is reached from the if, not from the end of the first half
			top.pays = blocks[max(0, len(blocks)-2)].pays
		case blockEnd:
			target := top.target
			blocks = blocks[:len(blocks)-1]
			if n := len(blocks); target && n > 0 && blocks[n-1].pays != entry {
				blocks[n-1].pays = b.charge(r.pos)
			}
		}
	}
}

// charge adds a charge, of nothing yet, at an offset.
func (b *body) charge(at int) int {
	b.edits = append(b.edits, edit{at: at, kind: editCharge})
	return len(b.edits) - 1
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
