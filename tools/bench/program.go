package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// programLine is a result of core/fastpath's BenchmarkProgram: name, value, unit.
var programLine = regexp.MustCompile(`(?m)^BenchmarkProgram/(\S+?)(?:-\d+)?\s.*\s(\S+) (ns/packet|B/flow)\b`)

// benchProgram measures what a packet costs in the XDP program, whose body is
// TC's, too, and what a flow takes in the kernel: the benchmark stands beside the
// program, and make bench builds it.
func benchProgram(ctx context.Context, b *bench) error {
	series := map[string]*series{}
	for i := range b.rounds {
		b.step("program: ns per packet", i+1, b.rounds)
		cmd := exec.CommandContext(ctx, filepath.Join(b.bin, "fastpath.test"),
			"-test.run=^$", "-test.bench=^BenchmarkProgram$", "-test.benchtime=1x", "-test.timeout=5m")
		var complaint bytes.Buffer
		cmd.Stderr = &complaint
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("program: %w (make bench builds it)\n%s%s", err, out, &complaint)
		}
		results, err := programResults(string(out))
		if err != nil {
			return err
		}
		for _, r := range results {
			if series[r.name] == nil {
				series[r.name] = b.measure(r.name, r.what, r.unit, nil)
			}
			series[r.name].add(r.value)
		}
	}
	return nil
}

type programResult struct {
	name, what, unit string
	value            float64
}

// programResults parses what the benchmark printed.
func programResults(out string) (results []programResult, err error) {
	for _, m := range programLine.FindAllStringSubmatch(out, -1) {
		r := programResult{name: strings.ReplaceAll(m[1], "_", " "), what: "program body", unit: "ns"}
		if m[3] == "B/flow" {
			r.name, r.what, r.unit = "kernel's map, a million flows", "memory per flow", "B"
		}
		if r.value, err = strconv.ParseFloat(m[2], 64); err != nil {
			return nil, fmt.Errorf("program: %q: %w", m[0], err)
		}
		results = append(results, r)
	}
	if len(results) == 0 {
		return nil, fmt.Errorf("program: no results in %q", out)
	}
	return results, nil
}
