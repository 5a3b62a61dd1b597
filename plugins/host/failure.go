package host

import (
	"errors"
	"fmt"

	"github.com/caplance/caplance/plugins/fuel"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/sys"
)

// Cause is why an instance was thrown away.
type Cause uint8

const (
	CauseOther  Cause = iota // a buffer against M6, a failed start
	CauseTrap                // a trap of the guest's own
	CauseFuel                // a call took more than its fuel
	CauseDepth               // calls were nested too deep
	CauseExit                // proc_exit
	CauseAnswer              // a pick's result that M10 forbids
	CauseTime                // calls took too long, whatever their fuel
	Causes                   // number of causes
)

func (c Cause) String() string {
	return [...]string{"other", "trap", "fuel", "depth", "exit", "answer", "time", "?"}[min(c, Causes)]
}

// Failure is an error of the guest's.
type Failure struct {
	Cause Cause
	Err   error
}

func (f *Failure) Error() string { return f.Err.Error() }
func (f *Failure) Unwrap() error { return f.Err }

// causeOf returns the cause of any error that ends an instance.
func causeOf(err error) Cause {
	if f, ok := errors.AsType[*Failure](err); ok {
		return f.Cause
	}
	return CauseOther
}

// budget is the fuel of one call and the key that it is configured by.
type budget struct {
	units int64
	key   string
}

// tank is an instance's view of the budgets that its module carries.
type tank struct {
	fuel       api.MutableGlobal
	depth      api.Global
	pick, call budget
	depthLimit int64
}

func newTank(mod api.Module, l *Limits) tank {
	return tank{
		fuel:       mod.ExportedGlobal(fuel.FuelExport).(api.MutableGlobal),
		depth:      mod.ExportedGlobal(fuel.DepthExport),
		pick:       budget{l.PickFuel, "pick_fuel"},
		call:       budget{l.CallFuel, "call_fuel"},
		depthLimit: l.Depth,
	}
}

// fill sets the fuel of the next call. It is on the packet path.
func (t *tank) fill(b budget) { t.fuel.Set(uint64(b.units)) }

// explain returns why a call with budget b failed: whichever budget is below zero
// stopped the guest, which cannot write to them.
func (t *tank) explain(fn string, b budget, err error) error {
	f := &Failure{Cause: CauseTrap}
	_, exited := errors.AsType[*sys.ExitError](err)
	switch {
	case int64(t.fuel.Get()) < 0:
		f.Cause = CauseFuel
		f.Err = fmt.Errorf("%s took more than %d units of fuel: make it faster or raise %s: %w", fn, b.units, b.key, err)
	case int64(t.depth.Get()) < 0:
		f.Cause = CauseDepth
		f.Err = fmt.Errorf("%s nested calls more than %d deep: end its recursion or raise max_depth: %w", fn, t.depthLimit, err)
	case exited:
		f.Cause = CauseExit
		f.Err = fmt.Errorf("%s ended the program, but a policy has to return: %w", fn, err)
	default:
		f.Err = fmt.Errorf("%s: %w", fn, err)
	}
	return f
}
