// Package inspect says what a policy's module is made of, without asking it for
// a pick.
//
//	report, err := inspect.Module(ctx, runtime, "hash", wasm)
package inspect

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/abi"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/plugins/workbench/trial"
)

// Report is what there is to know of a module.
type Report struct {
	Name      string     `json:"name"`
	ABI       int        `json:"abi"`
	Size      int        `json:"size"` // bytes
	SHA256    string     `json:"sha256"`
	Pure      bool       `json:"pure"`       // it imports nothing
	TableMode bool       `json:"table_mode"` // it fills a lookup table and is not asked for picks
	Memory    Memory     `json:"memory"`
	Slots     []Slot     `json:"slots"` // that it wants, at a pool of two backends
	Refused   string     `json:"refused,omitempty"`
	Exports   []Function `json:"exports"`
	Imports   []Function `json:"imports"`
	Metrics   []string   `json:"metrics,omitempty"` // names of what it counts
}

// Memory is the module's linear memory in pages of 64 KiB.
type Memory struct {
	Pages    uint32 `json:"pages"`
	MaxPages uint32 `json:"max_pages"`
	Declared bool   `json:"max_declared"` // the maximum is the module's, not the host's
	Bytes    uint32 `json:"bytes"`        // of a started instance
}

// Slot is a buffer that the guest hands out.
type Slot struct {
	Name string `json:"name"`
	Size uint32 `json:"size"` // bytes
}

// Function is an export or import. ABI marks what the balancer calls.
type Function struct {
	Name string `json:"name"`
	Type string `json:"type"`
	ABI  bool   `json:"abi,omitempty"`
}

// Module inspects a module; name is for messages. A module that cannot be
// started, for lack of a configuration for instance, is a report with Refused
// set.
//
// Errors: it is not a policy (host.Runtime.Compile).
func Module(ctx context.Context, rt *host.Runtime, name string, wasm []byte) (*Report, error) {
	policy, err := rt.Compile(ctx, name, wasm)
	if err != nil {
		return nil, err
	}
	defer policy.Close(ctx)
	facts, sum := policy.Facts(), sha256.Sum256(wasm)
	r := &Report{
		Name: name, ABI: 1, Size: len(wasm), SHA256: hex.EncodeToString(sum[:]),
		Pure: len(facts.Imports) == 0, TableMode: policy.HasTable(),
		Memory: Memory{Pages: facts.MemoryMin, MaxPages: facts.MemoryMax, Declared: facts.MaxDeclared},
		Slots:  []Slot{}, Exports: functions(facts.Exports), Imports: functions(facts.Imports),
	}
	r.start(ctx, policy)
	return r, nil
}

// start adds what only a running instance tells.
func (r *Report) start(ctx context.Context, policy *host.Policy) {
	s, err := policy.NewScheduler(ctx, host.Config{Workers: 1})
	if err != nil {
		r.Refused = err.Error()
		return
	}
	defer s.Close()
	s.SetPool(trial.NewPools(trial.Backends(2)).Build())
	buffers := s.Buffers()
	if r.TableMode {
		if ptr, err := s.AskBuffer(uint32(abi.SlotTable), 2*core.LookupSize); err == nil && ptr != 0 {
			buffers = append(buffers, host.Buffer{Slot: abi.SlotTable, Ptr: ptr, Size: 2 * core.LookupSize})
		}
	}
	for _, b := range buffers {
		r.Slots = append(r.Slots, Slot{b.Slot.String(), b.Size})
	}
	for _, m := range s.Stats().Metrics {
		r.Metrics = append(r.Metrics, m.Name)
	}
	r.Memory.Bytes = s.MemorySize()
	if err := s.Broken(); err != nil {
		r.Refused = fmt.Sprintf("a pool of two backends broke it: %v", err)
	}
}

func functions(list []host.Function) []Function {
	out := make([]Function, len(list))
	for i, f := range list {
		out[i] = Function{Name: f.Name, Type: f.Type, ABI: ofABI(f.Name)}
	}
	return out
}

func ofABI(name string) bool {
	for _, e := range abi.Exports {
		if e.Name == name {
			return true
		}
	}
	return false
}
