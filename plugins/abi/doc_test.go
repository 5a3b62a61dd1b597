package abi_test

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/caplance/caplance/plugins/abi"
	"github.com/google/go-cmp/cmp"
)

// rows returns the cells of the rows that follow a table's head, which begins with
// the given cells, in docs/policy-abi.md.
func rows(t *testing.T, head string) [][]string {
	t.Helper()
	doc, err := os.ReadFile("../../docs/policy-abi.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(doc), "\n| "+head+" |")
	if !ok {
		t.Fatalf("document has no table with the head %q", head)
	}
	table, _, _ := strings.Cut(rest, "\n\n")
	var out [][]string
	for _, line := range strings.Split(table, "\n")[2:] {
		cells := strings.Split(strings.Trim(line, "| "), "|")
		for i := range cells {
			cells[i] = strings.Trim(cells[i], " `")
		}
		out = append(out, cells)
	}
	return out
}

func TestDocumentedLayouts(t *testing.T) {
	tests := []struct {
		record  string
		size    int
		offsets map[string]int
	}{
		{"flow", abi.FlowSize, map[string]int{
			"size": abi.FlowRecordSize, "family": abi.FlowFamily, "protocol": abi.FlowProto, "sport": abi.FlowSrcPort,
			"dport": abi.FlowDstPort, "hash": abi.FlowHash, "rand": abi.FlowRand, "now_ns": abi.FlowNow, "src": abi.FlowSrc,
			"dst": abi.FlowDst, "service": abi.FlowService, "mark": abi.FlowMark, "flags": abi.FlowFlags, "attempt": abi.FlowAttempt,
		}},
		{"backend", abi.BackendSize, map[string]int{
			"id": abi.BackendID, "weight": abi.BackendWeight, "state": abi.BackendState, "zone": abi.BackendZone,
			"addr": abi.BackendAddr, "port": abi.BackendPort, "family": abi.BackendFamily, "max_flows": abi.BackendMaxFlows,
			"priority": abi.BackendPriority, "ramp_permille": abi.BackendRamp, "user": abi.BackendUser, "load": abi.BackendLoad, "reserved": abi.BackendReserved,
		}},
		{"END", 24, map[string]int{ // the rest is zero
			"packets": abi.EndPackets, "bytes": abi.EndBytes, "duration_ns": abi.EndDuration,
		}},
		{"info", 24, map[string]int{ // the rest is zero
			"worker": abi.InfoWorker, "workers": abi.InfoWorkers, "seed": abi.InfoSeed, "epoch": abi.InfoEpoch,
		}},
	}
	sizes := map[string]int{"u8": 1, "u16": 2, "u32": 4, "i32": 4, "u64": 8, "u8[16]": 16}
	for _, tt := range tests {
		next, got := 0, map[string]int{}
		for _, r := range rows(t, "offset | type | "+tt.record+" field | meaning") {
			var offset int
			fmt.Sscan(r[0], &offset)
			if offset != next {
				t.Errorf("%s record: field %s is documented at %d, the one before ends at %d", tt.record, r[2], offset, next)
			}
			got[r[2]], next = offset, offset+sizes[r[1]]
		}
		if next != tt.size {
			t.Errorf("%s record: the documented fields end at %d, want %d", tt.record, next, tt.size)
		}
		if d := cmp.Diff(tt.offsets, got); d != "" {
			t.Errorf("%s record: offsets (-code +document):\n%s", tt.record, d)
		}
	}
}

func TestDocumentedExports(t *testing.T) {
	want, got := map[string]string{}, map[string]string{}
	names := map[abi.ValueType]string{abi.I32: "i32", abi.I64: "i64"}
	list := func(types []abi.ValueType) string {
		var s []string
		for _, v := range types {
			s = append(s, names[v])
		}
		return strings.Join(s, ", ")
	}
	for _, e := range abi.Exports {
		result := list(e.Results)
		if result == "" {
			result = "()"
		}
		want[e.Name] = fmt.Sprintf("(%s) → %s %v", list(e.Params), result, !e.Optional)
	}
	paramNames := regexp.MustCompile(`\w+ (i32|i64)`)
	for _, r := range rows(t, "export | signature | required") {
		got[r[0]] = fmt.Sprintf("%s %v", paramNames.ReplaceAllString(r[1], "$1"), r[2] == "yes")
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("exports (-code +document):\n%s", d)
	}
}

func TestDocumentedSlots(t *testing.T) {
	var want, got []string
	for s := abi.SlotConfig; s <= abi.MaxSlot; s++ {
		want = append(want, fmt.Sprint(s, " ", uint32(s)))
	}
	for _, r := range rows(t, "slot | number | contents | size in bytes | written by") {
		got = append(got, r[0]+" "+r[1])
	}
	if !reflect.DeepEqual(want, got) {
		t.Errorf("documented slots are %v, want %v", got, want)
	}
}
