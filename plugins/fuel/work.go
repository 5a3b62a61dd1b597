package fuel

// What a module may take to compile. The engine's compiler is not linear in the
// size of a function: where paths meet, it makes a value for every local that is
// used after that, and it looks for a local's value, and for what is alive,
// block by block. 48 KB of nested loops over 1000 locals took it 9 s and 630 MiB.
//
// What compilers make stays far below: of a standard Go guest with
// encoding/json no function has more than 20 000 blocks × locals or 30 million
// blocks × values, and all of them together 1.3 million and 290 million. A module at
// all of these limits at once takes some 20 s.
const (
	maxSpread   = 1 << 17 // blocks × locals of a function: 0.2 s
	maxSpreads  = 1 << 21 // of all functions: 3 s
	maxSearch   = 1 << 26 // blocks × values of a function: 0.5 s
	maxSearches = 1 << 29 // of all functions: 4 s
	maxValues   = 1 << 18 // instructions and what they move, of a function: 1 s
	maxMoved    = 1 << 22 // of all functions: 4 to 14 s
	maxLabels   = 1 << 14 // of a br_table
	maxNesting  = 1 << 12 // blocks that are open at once
)

// work is what a function, or a module so far, takes to compile.
type work struct {
	blocks uint64 // where control may go: blocks, loops, branches, labels
	values uint64 // instructions, and the parameters and results that they move
	locals uint64 // with the parameters

	spreads, searches, moved uint64 // of the functions before
}

// begin starts the next function.
func (w *work) begin(locals uint64) {
	w.spreads += w.spread()
	w.searches += w.search()
	w.moved += w.values
	w.blocks, w.values, w.locals = 1, 0, locals
}

func (w *work) spread() uint64 { return w.blocks * w.locals }
func (w *work) search() uint64 { return w.blocks * w.values }

// add counts an instruction that moves values and leads to targets.
func (w *work) add(targets, values uint64) {
	w.blocks += targets
	w.values += 1 + values
}

// bound refuses a module as soon as it takes more than it may, for it may be
// long. No product overflows: both factors have been small enough for one with
// the limit before, and an instruction adds less than 2²⁵ to either.
func (w *work) bound(r *reader, function uint32) {
	own := func(what string, n uint64, limit uint64) {
		if n > limit {
			r.fail(ErrHeavy, "function %d has %d %s to compile, more than the %d allowed: split it", function, n, what, limit)
		}
	}
	all := func(what string, n uint64, limit uint64) {
		if n > limit {
			r.fail(ErrHeavy, "functions up to %d have %d %s to compile, more than the %d allowed in all: leave some out", function, n, what, limit)
		}
	}
	own("blocks × locals", w.spread(), maxSpread)
	own("values", w.values, maxValues)
	own("blocks × values", w.search(), maxSearch)
	all("blocks × locals", w.spreads+w.spread(), maxSpreads)
	all("values", w.moved+w.values, maxMoved)
	all("blocks × values", w.searches+w.search(), maxSearches)
}

// weigh counts an instruction of the function that is being scanned.
func (m *module) weigh(r *reader, b *body, in instruction, blocks []block) {
	var targets, values uint64
	to := func(label uint32) uint64 { return blocks[len(blocks)-1-int(label)].arity }
	switch in.takes {
	case blockType, loopType:
		t := m.blockType(r, in)
		targets, values = 1, t.arity()
	case elseMark:
		targets = 1
	case leave:
		targets, values = 1, uint64(len(b.results))
	case label:
		targets, values = 1, to(in.index)
	case labels:
		for l := range r.labelsOf(in) {
			targets++
			values += to(l)
		}
		if targets > maxLabels {
			r.fail(ErrHeavy, "function %d has a br_table of %d labels, more than the %d allowed", b.index, targets, maxLabels)
		}
	case function:
		values = m.signature(in.index).arity()
	case indirect:
		values = m.types[in.index].arity()
	}
	if len(blocks) > maxNesting {
		r.fail(ErrHeavy, "function %d nests %d blocks, more than the %d allowed", b.index, len(blocks), maxNesting)
	}
	m.work.add(targets, values)
	m.work.bound(r, b.index)
}

// arity returns the number of parameters and results.
func (t funcType) arity() uint64 { return uint64(len(t.params) + len(t.results)) }

func (m *module) importedFuncs() uint32 { return uint32(len(m.imported)) }

// signature returns a function's type, that without anything where there is no
// such function, which the engine refuses.
func (m *module) signature(function uint32) funcType {
	for _, types := range [][]uint32{m.imported, m.funcs} {
		if uint64(function) < uint64(len(types)) {
			return m.types[types[function]]
		}
		function -= uint32(len(types))
	}
	return funcType{}
}

// blockType returns the type of a block that was read.
func (m *module) blockType(r *reader, in instruction) funcType {
	if in.index != noType {
		return m.types[in.index]
	}
	if c := r.wasm[in.at+1]; c != typeEmpty {
		return funcType{results: r.wasm[in.at+1 : in.at+2]}
	}
	return funcType{}
}
