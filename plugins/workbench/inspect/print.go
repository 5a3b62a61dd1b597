package inspect

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/caplance/caplance/core/plain"
)

// Print writes the report for people.
func (r *Report) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	line := func(key, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", key, fmt.Sprintf(format, args...)) }
	line("policy", "%s", plain.Name(r.Name))
	line("ABI", "%d", r.ABI)
	line("size", "%d bytes", r.Size)
	line("sha256", "%s", r.SHA256)
	if r.Pure {
		line("imports", "none: pure, its picks depend on nothing but what the balancer tells it")
	}
	for i, f := range r.Imports {
		line(first(i, "imports"), "%s %s", plain.Name(f.Name), f.Type)
	}
	asked := "for every new flow"
	if r.TableMode {
		asked = "table mode: fills a lookup table for each pool, which then places the flows"
	}
	line("asked", "%s", asked)
	bound := "declared"
	if !r.Memory.Declared {
		bound = "not declared: every instance reserves it"
	}
	line("memory", "%s at start, at most %s (%s)", kib(r.Memory.Bytes, r.Memory.Pages), kib(0, r.Memory.MaxPages), bound)
	slots := []string{}
	for _, s := range r.Slots {
		slots = append(slots, s.Name)
	}
	if len(slots) == 0 {
		slots = []string{"none"}
	}
	line("slots wanted", "%s", strings.Join(slots, " "))
	if len(r.Metrics) > 0 {
		line("metrics", "%s", strings.Join(r.Metrics, " "))
	}
	n := 0
	for _, f := range r.Exports {
		if f.ABI {
			line(first(n, "exports"), "%s %s", f.Name, f.Type)
			n++
		}
	}
	if more := len(r.Exports) - n; more > 0 {
		line("", "and %d that the balancer does not call", more)
	}
	if r.Refused != "" {
		line("not started", "%s", r.Refused)
	}
	return t.Flush()
}

func first(i int, key string) string {
	if i == 0 {
		return key
	}
	return ""
}

// kib formats a memory's size; bytes is 0 where only the pages are known.
func kib(bytes, pages uint32) string {
	if bytes == 0 {
		bytes = pages << 16
	}
	return fmt.Sprintf("%d KiB", bytes>>10)
}
