package replay

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/caplance/caplance/core/plain"
)

// Print writes the result for people.
func (r *Result) Print(w io.Writer) error {
	fmt.Fprintf(w, "%d flows of %s, recorded with %s: %s would have put %d elsewhere (%.2f%%)\n\n", r.Flows, plain.Name(r.Service), plain.Name(r.Recorded), plain.Name(r.Policy), r.Differ, 100*r.Share)
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "BACKEND\tWAS\tNOW\tSHIFT\tSTAYED")
	for _, b := range r.Backends {
		fmt.Fprintf(t, "%s\t%d\t%d\t%+.2f%%\t%d\n", plain.Name(b.Name), b.Was, b.Now, 100*(float64(b.Now)-float64(b.Was))/float64(max(r.Flows, 1)), b.Stayed)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if r.Lost > 0 {
		fmt.Fprintf(w, "\n%d entries are missing: more came than could be recorded\n", r.Lost)
	}
	if r.Cut {
		fmt.Fprintln(w, "\nThe recording was interrupted; this is what it has.")
	}
	return nil
}
