package host

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/abi"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

var le = binary.LittleEndian

// instance is one guest: its functions, looked up once, and views into its
// memory. One goroutine owns it at a time.
type instance struct {
	run   *run // the policy's time that it was made for
	tank  tank
	watch watch
	mod   api.Module
	mem   api.Memory
	size  uint32 // of mem when the views were taken

	pickFn, backendsFn, bufferFn api.Function
	flowEndFn, tickFn            api.Function // nil where the guest does not export them
	stack                        [2]uint64    // parameters and result of a call

	info    abi.Info
	buffers [abi.MaxSlot + 1]buffer

	// Views of the buffers; nil where the guest refused the slot.
	flow                   *[abi.FlowSize]byte
	end                    *[abi.EndSize]byte
	infoRecord             *[abi.InfoSize]byte
	active, packets, bytes []byte
	backends               []byte
	metrics, names         []byte

	pool    *core.Pool // what BACKENDS holds, nil before the first load
	refused bool       // the guest cannot work with this pool
}

// buffer is what the guest answered for a slot; ptr 0 is a refusal.
type buffer struct{ ptr, size uint32 }

// newInstance starts a guest and does everything that does not depend on the
// pool: initialization, INFO, configuration and the FLOW buffer.
func newInstance(ctx context.Context, p *Policy, cfg *Config) (*instance, error) {
	out := &guestLog{log: cfg.Log, left: p.runtime.limits.LogBytes}
	info := abi.Info{Worker: uint32(cfg.Worker), Workers: uint32(cfg.Workers), Seed: core.Mix(cfg.Seed + uint64(cfg.Worker))}
	var key [32]byte
	le.PutUint64(key[:], info.Seed)
	mod, err := p.runtime.engine.InstantiateModule(ctx, p.compiled, wazero.NewModuleConfig().
		WithName("").         // anonymous, or the second worker's would clash
		WithStartFunctions(). // initialize does it
		WithStdout(out).WithStderr(out).
		// The same seed gives the same picks, so a guest's random numbers must
		// replay too. Its clock is wazero's fake one.
		WithRandSource(rand.NewChaCha8(key)))
	if err != nil {
		return nil, fmt.Errorf("initialization failed: %w", err)
	}
	in := &instance{
		tank: newTank(mod, &p.runtime.limits),
		mod:  mod, mem: mod.Memory(), info: info,
		watch:      newWatch(cfg.Clocks, p.runtime.limits.PickFuel),
		pickFn:     mod.ExportedFunction(abi.Pick),
		backendsFn: mod.ExportedFunction(abi.Backends),
		bufferFn:   mod.ExportedFunction(abi.Buffer),
		flowEndFn:  mod.ExportedFunction(abi.FlowEnd),
		tickFn:     mod.ExportedFunction(abi.Tick),
	}
	if err := in.initialize(ctx, p.runtime.limits.StartFuel); err != nil {
		return nil, errors.Join(err, mod.Close(ctx))
	}
	if err := in.start(ctx, cfg.ConfigJSON); err != nil {
		return nil, errors.Join(err, mod.Close(ctx))
	}
	return in, nil
}

// initialize runs a guest's own start-up, of language runtimes mostly.
func (in *instance) initialize(ctx context.Context, units int64) error {
	fn := in.mod.ExportedFunction("_initialize")
	if fn == nil {
		return nil
	}
	b := budget{units, "start_fuel"}
	in.tank.fill(b)
	if err := fn.CallWithStack(ctx, in.stack[:]); err != nil {
		return fmt.Errorf("initialization failed: %w", in.tank.explain("_initialize", b, err))
	}
	return nil
}

func (in *instance) start(ctx context.Context, config []byte) error {
	if err := in.ask(ctx, abi.SlotInfo, abi.InfoSize); err != nil {
		return err
	}
	if err := in.ask(ctx, abi.SlotFlow, abi.FlowSize); err != nil {
		return err
	}
	if in.flowEndFn != nil {
		if err := in.ask(ctx, abi.SlotEnd, abi.EndSize); err != nil {
			return err
		}
	}
	if err := in.askMetrics(ctx); err != nil {
		return err
	}
	if err := in.mapViews(); err != nil {
		return err
	}
	in.putInfo()
	return in.configure(ctx, config)
}

// configure hands the policy its own configuration.
func (in *instance) configure(ctx context.Context, config []byte) error {
	fn := in.mod.ExportedFunction(abi.Config)
	if fn == nil {
		if len(config) > 0 {
			return fmt.Errorf("policy takes no configuration (it does not export %s): remove policy_config", abi.Config)
		}
		return nil
	}
	if len(config) == 0 {
		config = []byte("{}")
	}
	if err := in.ask(ctx, abi.SlotConfig, len(config)); err != nil {
		return err
	}
	b := in.buffers[abi.SlotConfig]
	if b.ptr == 0 {
		return fmt.Errorf("policy refuses a configuration of %d bytes: shorten policy_config", len(config))
	}
	if err := in.mapViews(); err != nil { // checks the buffer's place, too
		return err
	}
	in.mem.Write(b.ptr, config)
	if code, err := in.call(ctx, fn, uint64(len(config))); err != nil {
		return err
	} else if code != 0 {
		return fmt.Errorf("policy rejects its configuration with code %d: correct policy_config", code)
	}
	return in.mapViews()
}

// load gives the guest another pool with its counters. An error means that
// the instance is to be thrown away.
func (in *instance) load(ctx context.Context, p *core.Pool, counts []counts) error {
	n := len(p.Members)
	for _, s := range [...]struct {
		slot  abi.Slot
		entry int
	}{{abi.SlotBackends, abi.BackendSize}, {abi.SlotActive, 4}, {abi.SlotPackets, 8}, {abi.SlotBytes, 8}} {
		if err := in.ask(ctx, s.slot, n*s.entry); err != nil {
			return err
		}
	}
	if err := in.mapViews(); err != nil {
		return err
	}
	if in.backends != nil {
		for i := range p.Members {
			abi.PutBackend((*[abi.BackendSize]byte)(in.backends[i*abi.BackendSize:]), &p.Members[i])
		}
	}
	in.pool = p
	in.putCounts(counts)
	code, err := in.call(ctx, in.backendsFn, uint64(n), uint64(p.Eligible))
	if err != nil {
		return err
	}
	in.refused = code != 0
	return in.mapViews()
}

// ask requests the buffer for a slot.
func (in *instance) ask(ctx context.Context, slot abi.Slot, size int) error {
	ptr, err := in.call(ctx, in.bufferFn, uint64(slot), uint64(size))
	if err != nil {
		return err
	}
	in.buffers[slot] = buffer{ptr: uint32(ptr), size: uint32(size)}
	if ptr%abi.Align != 0 {
		return fmt.Errorf("buffer for slot %s is at %d: align it to %d bytes", slot, uint32(ptr), abi.Align)
	}
	return nil
}

// call runs a guest function outside the hot path.
func (in *instance) call(ctx context.Context, fn api.Function, params ...uint64) (int32, error) {
	in.stack = [2]uint64{}
	copy(in.stack[:], params)
	in.tank.fill(in.tank.call)
	if err := fn.CallWithStack(ctx, in.stack[:]); err != nil {
		return 0, in.tank.explain(nameOf(fn), in.tank.call, err)
	}
	return int32(in.stack[0]), nil
}

// nameOf returns the name that the ABI has for an export, which the module may
// export under others, too.
func nameOf(fn api.Function) string {
	for _, e := range abi.Exports {
		if slices.Contains(fn.Definition().ExportNames(), e.Name) {
			return e.Name
		}
	}
	return "function"
}

// mapViews takes the views anew: after every call that may have grown the
// memory, and whenever a buffer changed.
func (in *instance) mapViews() error {
	in.size = in.mem.Size()
	view := func(slot abi.Slot) ([]byte, error) {
		b := in.buffers[slot]
		if b.ptr == 0 {
			return nil, nil
		}
		v, ok := in.mem.Read(b.ptr, b.size)
		if !ok {
			return nil, fmt.Errorf("buffer for slot %s, %d bytes at %d, lies outside the memory of %d bytes", slot, b.size, b.ptr, in.size)
		}
		return v, nil
	}
	var views [abi.MaxSlot + 1][]byte
	for slot := range in.buffers {
		v, err := view(abi.Slot(slot))
		if err != nil {
			return err
		}
		views[slot] = v
	}
	in.flow, in.infoRecord, in.end = nil, nil, nil
	if v := views[abi.SlotFlow]; v != nil {
		in.flow = (*[abi.FlowSize]byte)(v)
	}
	if v := views[abi.SlotEnd]; v != nil {
		in.end = (*[abi.EndSize]byte)(v)
	}
	in.metrics, in.names = views[abi.SlotMetrics], views[abi.SlotNames]
	if v := views[abi.SlotInfo]; v != nil {
		in.infoRecord = (*[abi.InfoSize]byte)(v)
	}
	in.active, in.packets, in.bytes, in.backends = views[abi.SlotActive], views[abi.SlotPackets], views[abi.SlotBytes], views[abi.SlotBackends]
	return nil
}

// putCounts overwrites the counter slots and the loads in BACKENDS, and says so in
// INFO.
func (in *instance) putCounts(counts []counts) {
	for i := range counts {
		in.putCount(i, &counts[i])
		if o := abi.BackendSize*i + abi.BackendLoad; o < len(in.backends) {
			le.PutUint32(in.backends[o:], in.pool.Members[i].Vitals.Load())
		}
		if o := 8 * i; o < len(in.bytes) {
			le.PutUint64(in.bytes[o:], counts[i][countBytes].shown())
		}
	}
	in.info.Epoch++
	in.putInfo()
}

// putCount writes those counters of one entry that a pick changes.
func (in *instance) putCount(i int, c *counts) {
	if o := 4 * i; o < len(in.active) {
		shown := c[countActive].shown()
		// An offset alone must not make a backend look full.
		if most := uint64(in.pool.Members[i].MaxFlows); most != 0 && c[countActive].value < most {
			shown = min(shown, most-1)
		}
		le.PutUint32(in.active[o:], uint32(min(shown, math.MaxUint32)))
	}
	if o := 8 * i; o < len(in.packets) {
		le.PutUint64(in.packets[o:], c[countPackets].shown())
	}
}

func (in *instance) putInfo() {
	if in.infoRecord != nil {
		abi.PutInfo(in.infoRecord, in.info)
	}
}

func (in *instance) close(ctx context.Context) { in.mod.Close(ctx) }
