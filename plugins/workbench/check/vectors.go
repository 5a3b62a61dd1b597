package check

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/plain"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/plugins/workbench/trial"
)

const vectorsCase = "vectors"

// Vectors are picks that an author expects: the flows in their order, asked of
// a new instance, in one pool. They are a JSON file.
type Vectors struct {
	File     string          `json:"-"`
	Backends string          `json:"backends"` // as trial.ParseBackends reads it
	Config   json.RawMessage `json:"config,omitempty"`
	Flows    []Vector        `json:"flows"`
}

// Vector is one flow. Its hash is that of the 5-tuple with seed 0.
type Vector struct {
	Src   netip.AddrPort `json:"src"`
	Dst   netip.AddrPort `json:"dst"`
	Proto string         `json:"proto"` // tcp or udp
	Rand  uint64         `json:"rand"`
	Now   uint64         `json:"now_ns,omitempty"`
	Pick  string         `json:"pick"` // a backend's name, or "reject", or "no choice"
}

// ParseVectors reads the file's contents; file is for messages.
func ParseVectors(file string, text []byte) (*Vectors, error) {
	v := &Vectors{File: file}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return nil, fmt.Errorf("vectors %s: %w", file, err)
	}
	if _, err := trial.ParseBackends(v.Backends); err != nil {
		return nil, fmt.Errorf("vectors %s: %w", file, err)
	}
	for i, f := range v.Flows {
		if !f.Src.IsValid() || !f.Dst.IsValid() || f.Proto != "tcp" && f.Proto != "udp" {
			return nil, fmt.Errorf("vectors %s: flow %d: it takes src and dst as ADDRESS:PORT, proto as tcp or udp", file, i+1)
		}
	}
	return v, nil
}

func (v *Vector) flow() core.NewFlow {
	f := core.NewFlow{Rand: v.Rand, Now: v.Now, Family: 4, Flags: core.FlowSYN}
	f.Key = core.FlowKey{Src: v.Src.Addr().As16(), Dst: v.Dst.Addr().As16(), SrcPort: v.Src.Port(), DstPort: v.Dst.Port(), Proto: core.ProtoTCP}
	if v.Src.Addr().Is6() {
		f.Family = 6
	}
	if v.Proto == "udp" {
		f.Key.Proto, f.Flags = core.ProtoUDP, 0
	}
	f.Hash = f.Key.Hash(0)
	return f
}

// Update replaces the picks that opt.Vectors expects by those that the policy
// makes, and returns the file's new contents.
func Update(ctx context.Context, opt Options) ([]byte, error) {
	rt, err := host.NewRuntime(ctx)
	if err != nil {
		return nil, err
	}
	defer rt.Close(ctx)
	policy, err := rt.Compile(ctx, opt.Spec, opt.Wasm)
	if err != nil {
		return nil, err
	}
	h := &harness{ctx: ctx, policy: policy, opt: &opt}
	if err := h.ask(func(i int, got string) error { opt.Vectors.Flows[i].Pick = got; return nil }); err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(opt.Vectors, "", "  ")
	return append(text, '\n'), err
}

// ask makes an instance and asks it about the vectors' flows.
func (h *harness) ask(fn func(i int, got string) error) error {
	v, cfg := h.opt.Vectors, h.config()
	if v.Config != nil {
		cfg.ConfigJSON = v.Config
	}
	s, err := h.policy.NewScheduler(h.ctx, cfg)
	if err != nil {
		return err
	}
	defer s.Close()
	return v.each(s, fn)
}

// each asks about the flows.
func (v *Vectors) each(s *host.Scheduler, fn func(i int, got string) error) error {
	backends, err := trial.ParseBackends(v.Backends)
	if err != nil {
		return err
	}
	pool := trial.NewPools(backends).Build()
	s.SetPool(pool)
	for i := range v.Flows {
		f := v.Flows[i].flow()
		index, by := s.Pick(&f)
		if err := s.Broken(); err != nil {
			return fmt.Errorf("flow %d: %w", i+1, err)
		}
		got := map[core.Decision]string{core.ByReject: "reject", core.ByFallback: "no choice", core.ByNobody: "no choice"}[by]
		if by == core.ByPolicy {
			got = pool.Members[index].Name
		}
		if err := fn(i, got); err != nil {
			return err
		}
	}
	return nil
}

func vectors(h *harness) outcome {
	v := h.opt.Vectors
	if v == nil {
		return skipped("no vectors given (-vectors FILE)")
	}
	if err := h.ask(func(i int, got string) error {
		if want := v.Flows[i].Pick; got != want {
			return fmt.Errorf("flow %d from %v: picked %s, expected %s", i+1, v.Flows[i].Src, plain.Name(got), plain.Name(want))
		}
		return nil
	}); err != nil {
		return failed(err)
	}
	return ok("%d picks as expected", len(v.Flows))
}
