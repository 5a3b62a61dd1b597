package host

import "context"

// SetBounds makes a compiler give up earlier.
func (c *Compiler) SetBounds(cpu, data uint64) { c.bounds = bounds{cpu, data} }

// CompileRaw compiles what has not been checked by anyone.
func (c *Compiler) CompileRaw(ctx context.Context, wasm []byte) error {
	l := DefaultLimits()
	return c.compile(ctx, wasm, &l)
}
