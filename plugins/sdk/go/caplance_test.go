package caplance_test

import (
	"testing"
	"unsafe"

	"github.com/caplance/caplance/plugins/abi"
	caplance "github.com/caplance/caplance/plugins/sdk/go"
	"github.com/google/go-cmp/cmp"
)

// Every field is where the specification has it.
func TestLayouts(t *testing.T) {
	var (
		f caplance.Flow
		b caplance.Backend
		i caplance.Info
		e caplance.End
	)
	got := map[string]uintptr{
		"flow": unsafe.Sizeof(f), "family": unsafe.Offsetof(f.Family), "protocol": unsafe.Offsetof(f.Protocol),
		"sport": unsafe.Offsetof(f.SrcPort), "dport": unsafe.Offsetof(f.DstPort), "hash": unsafe.Offsetof(f.Hash),
		"rand": unsafe.Offsetof(f.Rand), "now": unsafe.Offsetof(f.Now), "src": unsafe.Offsetof(f.Src), "dst": unsafe.Offsetof(f.Dst),
		"service": unsafe.Offsetof(f.Service), "mark": unsafe.Offsetof(f.Mark), "flags": unsafe.Offsetof(f.Flags), "attempt": unsafe.Offsetof(f.Attempt),
		"backend": unsafe.Sizeof(b), "weight": unsafe.Offsetof(b.Weight), "state": unsafe.Offsetof(b.State), "zone": unsafe.Offsetof(b.Zone),
		"addr": unsafe.Offsetof(b.Addr), "port": unsafe.Offsetof(b.Port), "max_flows": unsafe.Offsetof(b.MaxFlows),
		"priority": unsafe.Offsetof(b.Priority), "ramp": unsafe.Offsetof(b.Ramp), "user": unsafe.Offsetof(b.User),
		"info": unsafe.Sizeof(i), "seed": unsafe.Offsetof(i.Seed), "epoch": unsafe.Offsetof(i.Epoch),
		"end": unsafe.Sizeof(e), "bytes": unsafe.Offsetof(e.Bytes), "duration": unsafe.Offsetof(e.Duration),
	}
	want := map[string]uintptr{
		"flow": abi.FlowSize, "family": abi.FlowFamily, "protocol": abi.FlowProto,
		"sport": abi.FlowSrcPort, "dport": abi.FlowDstPort, "hash": abi.FlowHash,
		"rand": abi.FlowRand, "now": abi.FlowNow, "src": abi.FlowSrc, "dst": abi.FlowDst,
		"service": abi.FlowService, "mark": abi.FlowMark, "flags": abi.FlowFlags, "attempt": abi.FlowAttempt,
		"backend": abi.BackendSize, "weight": abi.BackendWeight, "state": abi.BackendState, "zone": abi.BackendZone,
		"addr": abi.BackendAddr, "port": abi.BackendPort, "max_flows": abi.BackendMaxFlows,
		"priority": abi.BackendPriority, "ramp": abi.BackendRamp, "user": abi.BackendUser,
		"info": abi.InfoSize, "seed": abi.InfoSeed, "epoch": abi.InfoEpoch,
		"end": abi.EndSize, "bytes": abi.EndBytes, "duration": abi.EndDuration,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("offsets (-specification +package):\n%s", d)
	}
}
