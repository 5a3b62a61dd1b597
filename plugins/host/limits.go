package host

import (
	"errors"
	"fmt"
	"math"
)

// Limits are what the runtime grants a policy. Errors that come of one name its
// key in the [policy] table of the configuration.
type Limits struct {
	ModuleBytes int    // max_module_bytes: the file
	MemoryPages uint32 // max_memory_pages: of 64 KiB, of one instance
	Depth       int64  // max_depth: active functions that call others
	LogBytes    int    // log_bytes: in the life of an instance

	// Fuel is in units of about one instruction each (docs/policy-abi.md,
	// section 10).
	PickFuel  int64 // pick_fuel: of caplance_pick and caplance_flow_end, which packets wait for
	CallFuel  int64 // call_fuel: of every other call
	StartFuel int64 // start_fuel: of _initialize and the start function
}

// DefaultLimits suit the bundled policies and standard Go guests by a wide
// margin; RATIONALE.md, "Fuel", has the figures.
func DefaultLimits() Limits {
	return Limits{
		ModuleBytes: MaxModuleSize,
		MemoryPages: MaxMemoryPages,
		Depth:       1024,
		LogBytes:    4096,
		PickFuel:    800_000,
		CallFuel:    300_000_000,
		StartFuel:   300_000_000,
	}
}

const (
	// MaxModuleSize is the default of max_module_bytes: 16 MiB, five times what
	// a standard Go guest with fmt has.
	MaxModuleSize = 16 << 20
	// MaxMemoryPages is the default of max_memory_pages: 16 MiB. Standard Go
	// guests, the hungriest, start with under 4 MiB.
	MaxMemoryPages = 256

	// maxTableSize bounds the tables of functions, in entries; a standard Go
	// guest has 5 000.
	maxTableSize = 1 << 16
)

// check returns an error that names the impossible limits.
func (l *Limits) check() error {
	var errs []error
	for _, k := range []struct {
		key             string
		value, min, max int64
	}{
		{"max_module_bytes", int64(l.ModuleBytes), 8, 1 << 30},
		{"max_memory_pages", int64(l.MemoryPages), 1, 1 << 16},
		{"max_depth", l.Depth, 1, 1 << 16},
		{"log_bytes", int64(l.LogBytes), 0, 1 << 30},
		{"pick_fuel", l.PickFuel, 1, math.MaxInt64 >> 1},
		{"call_fuel", l.CallFuel, 1, math.MaxInt64 >> 1},
		{"start_fuel", l.StartFuel, 1, math.MaxInt64 >> 1},
	} {
		if k.value < k.min || k.value > k.max {
			errs = append(errs, fmt.Errorf("%s is %d: make it %d to %d", k.key, k.value, k.min, k.max))
		}
	}
	return errors.Join(errs...)
}
