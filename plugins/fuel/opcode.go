package fuel

// immediate says what follows an opcode (WebAssembly Core Specification 2.0,
// §5.4, and the index of instructions, §7.10).
type immediate byte

const (
	unknown immediate = iota // not an instruction of WebAssembly 2.0
	none
	blockType  // of block, if
	loopType   // of loop
	blockEnd   // of end: nothing, but it closes a block
	elseMark   // of else: nothing
	leave      // of return: nothing, but the rewrite replaces it
	label      // of br, br_if
	labels     // of br_table
	function   // index, of call
	funcRef    // index, of ref.func
	indirect   // type and table index, of call_indirect
	localIndex //
	globalIndex
	tableIndex
	typeList   // of select t
	heapType   // of ref.null
	memArg     // alignment and offset
	memArgLane // the same and a lane
	zero       // the memory index, which is 0
	zeroZero   // two of them
	const32    // LEB128
	const64    // LEB128
	bytes4
	bytes8
	bytes16
	lane
	segment      // of data.drop, elem.drop
	segmentZero  // of memory.init
	twoIndices   // of table.init, table.copy
	prefixMisc   // 0xFC: more opcodes
	prefixVector // 0xFD: more opcodes
)

// What instructions cost, in units. Most cost 1, which takes 0.2 to 1 ns.
const (
	costPlain  = 1
	costDivide = 8 // divisions and square roots take 20 to 40 cycles
	// costMiss is for what is waited for when it is not in the cache: loads, and
	// the code that call_indirect finds. That takes 100 to 150 ns if each address
	// depends on the load before, 2 ns if it is there; RATIONALE.md says why no more.
	costMiss  = 8
	costRun   = 16 // of an instruction on a run, besides its length
	costLeave = 64 // memory.grow and table.grow leave machine code
)

type opcode struct {
	takes immediate
	cost  uint8 // 0 is costPlain
}

// fill gives the opcodes from first to last the same entry.
func fill(t *[256]opcode, first, last byte, takes immediate) {
	for c := int(first); c <= int(last); c++ {
		t[c] = opcode{takes: takes}
	}
}

// miss makes the opcodes from first to last cost a miss of the cache.
func miss(t *[256]opcode, first, last byte) {
	for c := int(first); c <= int(last); c++ {
		t[c].cost = costMiss
	}
}

// one-byte opcodes, §5.4.1–5.4.7.
var opcodes = func() (t [256]opcode) {
	fill(&t, 0x00, 0x01, none) // unreachable, nop
	t[0x02].takes, t[0x03].takes, t[0x04].takes = blockType, loopType, blockType
	t[0x05].takes, t[0x0b].takes, t[0x0f].takes = elseMark, blockEnd, leave
	t[0x0c].takes, t[0x0d].takes, t[0x0e].takes = label, label, labels
	t[0x10].takes = function
	t[0x11] = opcode{indirect, costMiss}
	fill(&t, 0x1a, 0x1b, none) // drop, select
	t[0x1c].takes = typeList
	fill(&t, 0x20, 0x22, localIndex)
	fill(&t, 0x23, 0x24, globalIndex)
	fill(&t, 0x25, 0x26, tableIndex)
	t[0x25].cost = costMiss // table.get
	fill(&t, 0x28, 0x3e, memArg)
	miss(&t, 0x28, 0x35)              // loads; a store waits for nothing
	t[0x3f].takes = zero              // memory.size
	t[0x40] = opcode{zero, costLeave} // memory.grow
	t[0x41].takes, t[0x42].takes, t[0x43].takes, t[0x44].takes = const32, const64, bytes4, bytes8
	fill(&t, 0x45, 0xc4, none) // numeric
	for _, c := range []byte{
		0x6d, 0x6e, 0x6f, 0x70, 0x7f, 0x80, 0x81, 0x82, // i32 and i64 div, rem
		0x91, 0x95, 0x9f, 0xa3, // f32 and f64 sqrt, div
	} {
		t[c].cost = costDivide
	}
	t[0xd0].takes, t[0xd1].takes, t[0xd2].takes = heapType, none, funcRef
	t[0xfc].takes, t[0xfd].takes = prefixMisc, prefixVector
	return t
}()

// opcodes after 0xFC: saturating conversions, bulk memory, tables (§5.4.6,
// §5.4.5).
var miscOpcodes = func() (t [256]opcode) {
	fill(&t, 0x00, 0x07, none)
	t[0x08].takes, t[0x09].takes = segmentZero, segment
	t[0x0a].takes, t[0x0b].takes = zeroZero, zero
	t[0x0c].takes, t[0x0d].takes, t[0x0e].takes = twoIndices, segment, twoIndices
	fill(&t, 0x0f, 0x11, tableIndex)
	for c := range t {
		if _, ok := runs[0xfc00|uint16(c)]; ok {
			t[c].cost = costRun
		}
	}
	t[0x0f].cost = costLeave // table.grow
	return t
}()

// opcodes after 0xFD: vectors (§5.4.8).
var vectorOpcodes = func() (t [256]opcode) {
	fill(&t, 0x00, 0xff, none)
	fill(&t, 0x00, 0x0b, memArg)
	fill(&t, 0x0c, 0x0d, bytes16) // v128.const, i8x16.shuffle
	fill(&t, 0x15, 0x22, lane)
	fill(&t, 0x54, 0x5b, memArgLane)
	fill(&t, 0x5c, 0x5d, memArg)
	miss(&t, 0x00, 0x0a) // loads
	miss(&t, 0x54, 0x57) // loads of a lane
	miss(&t, 0x5c, 0x5d) // loads of a half
	for _, c := range []byte{
		0x9a, 0xa2, 0xa5, 0xa6, 0xaf, 0xb0, 0xb2, 0xb3, 0xb4, 0xbb,
		0xc2, 0xc5, 0xc6, 0xcf, 0xd0, 0xd2, 0xd3, 0xd4, 0xe2, 0xee,
	} {
		t[c].takes = unknown // left free by the specification
	}
	for _, c := range []byte{0xe3, 0xe7, 0xef, 0xf3} { // sqrt, div
		t[c].cost = costDivide
	}
	return t
}()

// runs are the instructions whose time depends on their last operand, an i32,
// and what one unit of fuel buys of it: a shift to the right divides, to the
// left, here negative, multiplies. Memory moves faster than 8 bytes in the time
// of an instruction. A page that memory.grow adds is zeroed when it is touched,
// which an instance can make happen once for each of its pages, for 1 ms in all.
var runs = map[uint16]int{
	0x40:   -8, // memory.grow: pages
	0xfc08: 3,  // memory.init: bytes
	0xfc0a: 3,  // memory.copy: bytes
	0xfc0b: 3,  // memory.fill: bytes
	0xfc0c: 0,  // table.init: entries
	0xfc0e: 0,  // table.copy: entries
	0xfc0f: 0,  // table.grow: entries
	0xfc11: 0,  // table.fill: entries
}
