package host

import (
	"context"
	"errors"
	"fmt"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/abi"
)

// maxTableCalls bounds how often caplance_table may ask to be called again, and
// with call_fuel how long a table may take.
const maxTableCalls = 100

// HasTable reports whether the policy fills a lookup table beforehand, so that its
// flows are placed without asking it (table mode).
func (p *Policy) HasTable() bool { return p.compiled.ExportedFunctions()[abi.Table] != nil }

// BuildTable has the policy fill a table of core.LookupSize slots for a pool.
// It starts an instance of its own for it and may take long: call it off the
// packet path.
//
// Errors: what starting an instance says; a table that is never done; slots
// that name no eligible backend; eligible backends without any slot.
func (p *Policy) BuildTable(ctx context.Context, cfg Config, pool *core.Pool) (*core.Lookup, error) {
	if err := cfg.check(p); err != nil {
		return nil, err
	}
	in, err := startLoaded(ctx, p, &cfg, pool)
	if err != nil {
		return nil, fmt.Errorf("policy %q: %w", p.name, err)
	}
	defer in.close(ctx)
	l, err := in.table(ctx, pool)
	if err != nil {
		return nil, fmt.Errorf("policy %q: %w", p.name, err)
	}
	return l, nil
}

func (in *instance) table(ctx context.Context, pool *core.Pool) (*core.Lookup, error) {
	if in.refused {
		return nil, fmt.Errorf("%s refuses a pool of %d backends", abi.Backends, len(pool.Members))
	}
	if err := in.ask(ctx, abi.SlotTable, 2*core.LookupSize); err != nil {
		return nil, err
	}
	if in.buffers[abi.SlotTable].ptr == 0 {
		return nil, fmt.Errorf("%s is exported, but the TABLE slot of %d bytes is refused", abi.Table, 2*core.LookupSize)
	}
	fn := in.mod.ExportedFunction(abi.Table)
	for range maxTableCalls {
		more, err := in.call(ctx, fn, core.LookupSize)
		if err != nil {
			return nil, err
		}
		switch more {
		case 0:
			return in.readTable(pool)
		case 1:
		default:
			return nil, fmt.Errorf("%s answered %d: 0 is done, 1 is call again", abi.Table, more)
		}
	}
	return nil, fmt.Errorf("%s is not done after %d calls", abi.Table, maxTableCalls)
}

// readTable checks the finished table and copies it out of the guest.
func (in *instance) readTable(pool *core.Pool) (*core.Lookup, error) {
	if err := in.mapViews(); err != nil {
		return nil, err
	}
	b := in.buffers[abi.SlotTable]
	raw, _ := in.mem.Read(b.ptr, b.size) // mapViews has checked its place
	slots := make([]uint16, core.LookupSize)
	share := make([]int, pool.Eligible)
	for i := range slots {
		slots[i] = le.Uint16(raw[2*i:])
		switch s := slots[i]; {
		case s == core.NoBackend:
		case int(s) >= pool.Eligible:
			return nil, fmt.Errorf("table slot %d holds %d: the eligible backends are 0 to %d", i, s, pool.Eligible-1)
		default:
			share[s]++
		}
	}
	var errs []error
	for i, n := range share {
		if n == 0 {
			errs = append(errs, fmt.Errorf("table has no slot for backend %s", pool.Members[i].Name))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return core.LookupOf(slots, handles(pool)), nil
}

// handles returns those of the eligible backends, by index.
func handles(pool *core.Pool) []core.Handle {
	out := make([]core.Handle, pool.Eligible)
	for i := range out {
		out[i] = pool.Members[i].Handle
	}
	return out
}
