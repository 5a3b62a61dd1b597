package check

import (
	"fmt"
	"io"
	"strings"
)

// marks stand before a case: a tired eye looks for the one in capitals.
var marks = map[Status]string{OK: "ok", Note: "note", Skipped: "-", Failed: "FAIL"}

// Print writes the report for people: a line for each case, and below a failure
// what there is to know and the command that repeats it.
func (r *Report) Print(w io.Writer) error {
	wide := 0
	for _, o := range r.Outcomes {
		wide = max(wide, len(o.Case))
	}
	count := map[Status]int{}
	for _, o := range r.Outcomes {
		count[o.Status]++
		first, rest, _ := strings.Cut(o.Detail, "\n")
		fmt.Fprintf(w, "%-4s  %-*s  %s\n", marks[o.Status], wide, o.Case, first)
		if o.Status != Failed {
			continue
		}
		for line := range strings.Lines(rest) {
			fmt.Fprintf(w, "      %*s  %s\n", wide, "", strings.TrimSpace(line))
		}
		fmt.Fprintf(w, "      %*s  rule:      %s (docs/policy-abi.md)\n", wide, "", o.Rule)
		fmt.Fprintf(w, "      %*s  reproduce: %s\n", wide, "", o.Reproduce)
	}
	verdict := "conforms to ABI v1"
	if r.Failed > 0 {
		verdict = "does not conform"
	}
	_, err := fmt.Fprintf(w, "\n%s %s: %d ok, %d notes, %d failed, %d not applicable\n", r.Policy, verdict, count[OK], count[Note], count[Failed], count[Skipped])
	return err
}
