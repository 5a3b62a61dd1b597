package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestProgramResults(t *testing.T) {
	got, err := programResults(`goos: linux
BenchmarkProgram/one_flow,_tunnel-2         	       1	1234567 ns/op	        70.50 ns/packet
BenchmarkProgram/memory                     	1000000	     0.9 ns/op	       112.0 B/flow
PASS
`)
	want := []programResult{
		{"one flow, tunnel", "program body", "ns", 70.5},
		{"kernel's map, a million flows", "memory per flow", "B", 112},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(programResult{})); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if _, err := programResults("PASS"); err == nil {
		t.Error("nothing was measured, and nobody said so")
	}
}
