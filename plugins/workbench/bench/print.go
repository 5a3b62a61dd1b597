package bench

import (
	"fmt"
	"io"
)

// Report is the costs of several policies, the one in question first, in the
// order of the sizes.
type Report struct {
	Rows []Row `json:"rows"`
}

// Print writes the report for people: a block for each size.
func (r *Report) Print(w io.Writer) error {
	wide := 0
	for _, row := range r.Rows {
		wide = max(wide, len(row.name()))
	}
	const line = "%8s  %-*s  %9s %7s %8s  %6s  %7s  %8s  %7s %7s %8s %7s\n"
	fmt.Fprintf(w, line, "BACKENDS", wide, "POLICY", "PICK p50", "p99", "max", "ALLOCS", "FUEL", "MEMORY", "COMPILE", "START", "NEW POOL", "TABLE")
	size := 0
	for _, row := range r.Rows {
		cell := ""
		if row.Backends != size {
			if size > 0 {
				fmt.Fprintln(w)
			}
			size, cell = row.Backends, fmt.Sprint(row.Backends)
		}
		fuel, memory := fmt.Sprint(row.Fuel), fmt.Sprintf("%d KiB", row.Memory>>10)
		if row.Native {
			fuel, memory = "-", "-"
		}
		fmt.Fprintf(w, line, cell, wide, row.name(), duration(row.P50), duration(row.P99), duration(row.Max), allocs(row.Allocs),
			fuel, memory, duration(row.Compile), duration(row.Start), duration(row.Pool), duration(row.Table))
	}
	_, err := fmt.Fprintln(w, "\nTimes are of this machine just now: compare the lines of one run. Fuel is of the costliest pick and the same everywhere.")
	return err
}

func (r *Row) name() string {
	if r.Declined {
		return r.Policy + " (declines)"
	}
	return r.Policy
}

func allocs(n float64) string {
	if n == 0 {
		return "0"
	}
	return fmt.Sprintf("%.2f", n)
}

// duration formats ns to three digits: 850ns, 12.3µs, 4.56ms.
func duration(ns float64) string {
	switch {
	case ns == 0:
		return "-"
	case ns < 1e3:
		return fmt.Sprintf("%.0fns", ns)
	case ns < 1e6:
		return fmt.Sprintf("%.3gµs", ns/1e3)
	case ns < 1e9:
		return fmt.Sprintf("%.3gms", ns/1e6)
	}
	return fmt.Sprintf("%.3gs", ns/1e9)
}
