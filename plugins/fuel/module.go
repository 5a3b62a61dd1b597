package fuel

import "bytes"

// Section ids (§5.5.2).
const (
	sectionCustom    = 0
	sectionType      = 1
	sectionImport    = 2
	sectionFunction  = 3
	sectionTable     = 4
	sectionMemory    = 5
	sectionGlobal    = 6
	sectionExport    = 7
	sectionStart     = 8
	sectionElement   = 9
	sectionCode      = 10
	sectionData      = 11
	sectionDataCount = 12
)

// order is that of the sections in a module (§5.5.16); the ids are not, since
// the data count came later than the others.
var order = [...]byte{
	sectionType, sectionImport, sectionFunction, sectionTable, sectionMemory, sectionGlobal, sectionExport,
	sectionStart, sectionElement, sectionDataCount, sectionCode, sectionData,
}

var preamble = []byte("\x00asm\x01\x00\x00\x00")

// module is what the rewrite must know of a module.
type module struct {
	sections [sectionDataCount + 1][]byte // contents by id; nil is absent

	types       []funcType
	imported    []uint32 // type index of each imported function
	funcs       []uint32 // the same of each function of the module's own
	globals     uint32   // with the imported ones
	tables      []table  // without the imported ones
	exports     vector
	globalDefs  vector
	bodies      []body
	resultTypes map[string]int // indices of added types, by results
	names       []byte         // function names subsection, nil without
	locals      uint64         // of all functions
	elements    uint64         // entries of all element segments
	work        work           // to compile it, as far as it was read
}

// vector is one that is copied and gets more elements at its end.
type vector struct {
	count uint32
	rest  []byte // the elements
}

// funcType holds value types as they are encoded (§5.3.1, §5.3.6).
type funcType struct{ params, results []byte }

type table struct {
	element  byte
	min, max uint32
}

// decode reads and checks a module. Bodies are scanned, too, so that everything
// that can go wrong does so here.
func decode(wasm []byte, opt Options) (*module, error) {
	r := &reader{wasm: wasm, end: len(wasm)}
	if !bytes.Equal(r.skip(8), preamble) && r.ok() {
		r.pos = 0
		r.fail(ErrMalformed, "no core module of version 1")
	}
	m := &module{resultTypes: map[string]int{}}
	rank := 0
	for r.more() {
		id := r.byte()
		if id != sectionCustom {
			at := bytes.IndexByte(order[:], id)
			if at < rank {
				r.fail(ErrMalformed, "section %d is unknown or out of order", id)
				break
			}
			rank = at + 1
		}
		s := r.sub(r.u32())
		if id != sectionCustom {
			m.sections[id] = s.wasm[s.pos:s.end]
		}
		m.section(id, s, opt)
		r.done(s)
	}
	if len(m.bodies) != len(m.funcs) {
		r.fail(ErrMalformed, "%d functions have %d bodies", len(m.funcs), len(m.bodies))
	}
	return m, r.err
}

// section reads one section up to its end.
func (m *module) section(id byte, r *reader, opt Options) {
	switch id {
	case sectionCustom:
		m.readCustom(r)
	case sectionType:
		m.readTypes(r)
	case sectionImport:
		m.readImports(r)
	case sectionFunction:
		for n := r.count("functions", maxItems); n > 0 && r.ok(); n-- {
			m.funcs = append(m.funcs, r.index("type", len(m.types)))
		}
	case sectionTable:
		m.readTables(r, opt.TableSize)
	case sectionMemory:
		for n := r.count("memories", maxItems); n > 0 && r.ok(); n-- {
			r.limits()
		}
	case sectionGlobal:
		m.readGlobals(r)
	case sectionExport:
		m.readExports(r)
	case sectionStart, sectionDataCount:
		r.u32()
	case sectionElement:
		m.readElements(r)
	case sectionCode:
		m.readCode(r)
	case sectionData:
		m.readData(r)
	}
}
