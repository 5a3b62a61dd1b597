package host

import (
	"context"
	"errors"
	"strings"

	"github.com/caplance/caplance/plugins/fuel"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
)

// The host charges a guest for calling it, however it is called: the module,
// which pays for its own instructions (plugins/fuel), does not know what
// call_indirect leads to. A fixed amount is too little where a parameter says how
// much there is to do: random_get fills 16 MiB in milliseconds, and path functions
// clean a path of any length before they notice that there are no files. So every
// unit of a length costs as many units of fuel as its name tells, before the host
// does anything.

// costHost is for leaving machine code and coming back, 0.1 to 0.2 µs.
const costHost = 256

func unitCost(param string) int64 {
	switch {
	case param == "iovs_len":
		return 200 // buffers
	case param == "nsubscriptions":
		return 200
	case strings.HasSuffix(param, "_len"):
		return 8 // bytes
	}
	return 0
}

var errOutOfFuel = errors.New("fuel does not suffice for what the host is asked to do")

// charged makes the host functions that are instantiated with the context
// charge for their calls.
func charged(ctx context.Context) context.Context {
	return experimental.WithFunctionListenerFactory(ctx, experimental.FunctionListenerFactoryFunc(
		func(def api.FunctionDefinition) experimental.FunctionListener {
			costs := make([]int64, len(def.ParamNames()))
			for i, name := range def.ParamNames() {
				costs[i] = unitCost(name)
			}
			return experimental.FunctionListenerFunc(func(_ context.Context, guest api.Module, _ api.FunctionDefinition, params []uint64, _ experimental.StackIterator) {
				cost := int64(costHost)
				for i, unit := range costs {
					cost += unit * int64(uint32(params[i]))
				}
				charge(guest, cost)
			})
		}))
}

// charge takes fuel from a guest that has called the host; the panic becomes a
// trap.
func charge(guest api.Module, cost int64) {
	g, ok := guest.ExportedGlobal(fuel.FuelExport).(api.MutableGlobal)
	if !ok {
		return // not a metered module
	}
	left := int64(g.Get()) - cost
	g.Set(uint64(left))
	if left < 0 {
		panic(errOutOfFuel)
	}
}
