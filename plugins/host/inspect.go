package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/caplance/caplance/plugins/abi"
	"github.com/tetratelabs/wazero"
)

// Facts is what a compiled policy says about itself.
type Facts struct {
	Exports, Imports     []Function
	MemoryMin, MemoryMax uint32 // pages of 64 KiB; the maximum is what an instance may grow to
	MaxDeclared          bool   // the module itself bounds its memory
}

// Function is one export or import with its type as the ABI writes it:
// "(i64, i32) → i32".
type Function struct{ Name, Type string }

// Facts lists what the module exports and imports, in alphabetical order.
func (p *Policy) Facts() Facts {
	var f Facts
	for name, d := range p.compiled.ExportedFunctions() {
		f.Exports = append(f.Exports, Function{name, signature(d.ParamTypes(), d.ResultTypes())})
	}
	for _, d := range p.compiled.ImportedFunctions() {
		module, name, _ := d.Import()
		f.Imports = append(f.Imports, Function{module + "." + name, signature(d.ParamTypes(), d.ResultTypes())})
	}
	for _, list := range [][]Function{f.Exports, f.Imports} {
		slices.SortFunc(list, func(a, b Function) int { return cmp.Compare(a.Name, b.Name) })
	}
	m := p.compiled.ExportedMemories()[abi.Memory]
	f.MemoryMin, f.MemoryMax = m.Min(), p.runtime.limits.MemoryPages
	if most, ok := m.Max(); ok {
		f.MemoryMax, f.MaxDeclared = min(f.MemoryMax, most), true
	}
	return f
}

// Exports reports whether the policy has the function of that name.
func (p *Policy) Exports(name string) bool { return p.compiled.ExportedFunctions()[name] != nil }

// Limits returns those of the policy's runtime.
func (p *Policy) Limits() Limits { return p.runtime.limits }

// NewInterpreter starts an engine that interprets modules instead of compiling
// them: thirty times slower, and the second opinion on what a module does.
func NewInterpreter(ctx context.Context, l Limits) (*Runtime, error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	r := &Runtime{limits: l, engine: wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter().
		WithMemoryLimitPages(l.MemoryPages).WithMemoryCapacityFromMax(true))}
	if err := r.offer(ctx); err != nil {
		return nil, fmt.Errorf("policy runtime: %w", err)
	}
	return r, nil
}

// Buffer is where a guest keeps a slot.
type Buffer struct {
	Slot      abi.Slot
	Ptr, Size uint32 // bytes, in the guest's memory
}

// Buffers returns those that the guest handed out, in the order of their slots.
// Like Pick it belongs to the scheduler's goroutine, as do the functions below.
func (s *Scheduler) Buffers() (out []Buffer) {
	if s.in == nil {
		return nil
	}
	for slot, b := range s.in.buffers {
		if b.ptr != 0 {
			out = append(out, Buffer{abi.Slot(slot), b.ptr, b.size})
		}
	}
	return out
}

// AskBuffer calls caplance_buffer for a slot of any number, known or not, and
// returns the address; the buffer is not used.
func (s *Scheduler) AskBuffer(slot, size uint32) (ptr uint32, err error) {
	if err := s.Broken(); err != nil {
		return 0, err
	}
	p, err := s.in.call(s.ctx, s.in.bufferFn, uint64(slot), uint64(size))
	return uint32(p), err
}

// Peek returns the memory of a buffer as it is now; it is valid until the next call.
func (s *Scheduler) Peek(b Buffer) []byte {
	if s.in == nil {
		return nil
	}
	view, _ := s.in.mem.Read(b.Ptr, b.Size)
	return view
}

// Refuses reports whether the policy declined the pool given last.
func (s *Scheduler) Refuses() bool { return s.in != nil && s.in.refused }

// MemorySize returns the instance's memory in bytes, 0 without an instance.
func (s *Scheduler) MemorySize() uint32 {
	if s.in == nil {
		return 0
	}
	return s.in.mem.Size()
}

// PickFuel returns what the last pick took, in units of fuel. It means nothing after
// any other call.
func (s *Scheduler) PickFuel() int64 {
	if s.in == nil {
		return 0
	}
	return s.in.tank.pick.units - int64(s.in.tank.fuel.Get())
}

// CallFuel returns what the last call that was not a pick took.
func (s *Scheduler) CallFuel() int64 {
	if s.in == nil {
		return 0
	}
	return s.in.tank.call.units - int64(s.in.tank.fuel.Get())
}

// Broken returns why there is no instance, nil while there is one. After a failure
// it ends the scheduler, which then waits for no replacement.
func (s *Scheduler) Broken() error {
	if s.in != nil {
		return nil
	}
	text := s.failure()
	for cause, n := range s.Stats().Causes {
		if n > 0 {
			return &Failure{Cause(cause), errors.New(text)}
		}
	}
	return errors.New(text)
}
