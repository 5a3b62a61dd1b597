// Package fuel rewrites a WebAssembly module so that no call into it can run
// for long: it carries two budgets that the module itself pays from, and traps
// when one is spent.
//
//	metered, err := fuel.Meter(wasm, fuel.Options{Fuel: 1e6, Depth: 1024, TableSize: 65536})
//
// The budgets are mutable i64 globals, exported as FuelExport and DepthExport.
// Whoever runs the module sets them before a call and reads them after a trap:
// the one that is below zero is what stopped the guest.
//
// Every function pays on entry, and every loop at its head, for the
// instructions that can follow before the next such place; instructions that
// work on a run of memory or of a table pay for its length. A function that
// calls others also takes one from the depth while it is active. What an imported
// function does, it has to charge for itself: the module cannot know, for
// call_indirect reaches it, too. What an
// instruction costs is in opcode.go, what is inserted in charge.go; RATIONALE.md
// has the reasons and the figures.
package fuel

import (
	"errors"
	"fmt"
)

// Names of the exported globals. A colon keeps them apart from what compilers
// make out of identifiers; a module that exports one of them is refused.
const (
	FuelExport  = "caplance:fuel"
	DepthExport = "caplance:depth"
)

// Options are the values of the budgets while the module is instantiated,
// which is when its start function runs.
type Options struct {
	Fuel  int64 // units: about one per instruction, ≥ 0
	Depth int64 // active functions that call others, ≥ 0
	// TableSize is the most entries that any table may have: tables grow beyond
	// it in vain (table.grow gives −1), and one that starts larger is refused.
	TableSize uint32
}

var (
	// ErrMalformed is a module that breaks the binary format.
	ErrMalformed = errors.New("module is malformed")
	// ErrUnsupported is a module that uses what lies beyond WebAssembly 2.0, or
	// that is larger in some respect than any policy needs to be.
	ErrUnsupported = errors.New("module is not supported")
	// ErrHeavy is a module that would take too long to compile, or too much memory.
	ErrHeavy = errors.New("module is too heavy")
	// ErrReserved is a module that exports FuelExport or DepthExport.
	ErrReserved = errors.New("export is reserved for the host")
)

// Meter gives wasm the budgets. The result does what wasm does, and traps
// where a budget is spent; function indices and names stay as they are, custom
// sections but the function names are dropped, for the offsets in them would
// be wrong.
//
// Meter checks everything that the rewrite could hide, such as an index that is
// out of range in wasm but names something of Meter's in the result, and bounds
// every count by the bytes that are there. So it is safe to give it anything,
// and an engine that validates the result has validated wasm.
//
// Errors are ErrMalformed, ErrUnsupported, ErrHeavy and ErrReserved, with the
// offset in bytes from the start of wasm.
func Meter(wasm []byte, opt Options) ([]byte, error) {
	if opt.Fuel < 0 || opt.Depth < 0 {
		return nil, fmt.Errorf("budgets of %d fuel and %d depth are impossible: make them 0 or more", opt.Fuel, opt.Depth)
	}
	m, err := decode(wasm, opt)
	if err != nil {
		return nil, err
	}
	return m.encode(opt)
}
