package simulate

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// Report is the policy in question and those that it is compared with.
type Report struct {
	Setup   string   `json:"setup"` // in the words of the command line
	Results []Result `json:"results"`
}

// Print writes the report for people: the first policy's shares as bars, what
// the events did to it, and a line for each of the others.
func (r *Report) Print(w io.Writer) error {
	first := &r.Results[0]
	fmt.Fprintf(w, "%s: %s\n\n", first.Policy, r.Setup)
	first.printShares(w)
	fmt.Fprintf(w, "\n  max/mean %.3f   χ² %.4g at %d degrees of freedom: %s\n", first.MaxMean, first.ChiSquare, first.Freedom, first.verdict())
	fmt.Fprintf(w, "  open flows of heavy-tailed length: at most %.2f times the fair number on one backend, at %.0f%%\n", first.Peak, 100*first.PeakAt)
	if n := first.By["fallback"] + first.By["reject"] + first.By["nobody"]; n > 0 {
		fmt.Fprintf(w, "  flows that the policy did not place: %d to the lookup table, %d rejected, %d without any backend\n", first.By["fallback"], first.By["reject"], first.By["nobody"])
	}
	first.printEvents(w)
	return r.printComparison(w)
}

// verdict puts χ² into words.
func (r *Result) verdict() string {
	switch p := r.Chance(); {
	case p > 0.99:
		return "more even than chance"
	case p < 0.001:
		return "less even than random picks"
	default:
		return fmt.Sprintf("as random picks (p = %.2f)", p)
	}
}

const (
	barWidth = 40
	maxBars  = 32
)

func (r *Result) printShares(w io.Writer) {
	list, placed, most := r.Backends, 0.0, 0.0
	for _, b := range list {
		placed += float64(b.Flows)
		most = max(most, float64(b.Flows), b.Fair)
	}
	if len(list) > maxBars {
		list = slices.Clone(list)
		slices.SortStableFunc(list, func(a, b Backend) int { return cmp.Compare(b.off(), a.off()) })
		list = list[:maxBars]
	}
	wide := len("BACKEND")
	for _, b := range list {
		wide = max(wide, len([]rune(b.Name)))
	}
	fmt.Fprintf(w, "  %-*s %6s %9s %7s %7s\n", wide, "BACKEND", "WEIGHT", "FLOWS", "SHARE", "FAIR")
	for _, b := range list {
		line := fmt.Sprintf("  %-*s %6d %9d %6.2f%% %6.2f%%  %s", wide, b.Name, b.Weight, b.Flows, 100*float64(b.Flows)/max(placed, 1),
			100*b.Fair/max(placed, 1), bar(float64(b.Flows)/max(most, 1), b.Fair/max(most, 1)))
		fmt.Fprintln(w, strings.TrimRight(line, " "))
	}
	if more := len(r.Backends) - len(list); more > 0 {
		fmt.Fprintf(w, "  … and %d that are nearer to their fair share (-o json has all)\n", more)
	}
	fmt.Fprintf(w, "  %*s %s\n", wide+33, "", "│ is the fair share")
}

// off returns how far a backend is from its fair share.
func (b Backend) off() float64 { return math.Abs(float64(b.Flows)-b.Fair) / max(b.Fair, 1) }

// bar draws a share of the full width with a mark at another.
func bar(share, mark float64) string {
	eighths := []rune(" ▏▎▍▌▋▊▉")
	cells := slices.Repeat([]rune{' '}, barWidth+1)
	n := int(math.Round(share * barWidth * 8))
	for i := range n / 8 {
		cells[i] = '█'
	}
	if n%8 > 0 {
		cells[n/8] = eighths[n%8]
	}
	cells[int(math.Round(mark*barWidth))] = '│'
	return string(cells)
}

func (r *Result) printEvents(w io.Writer) {
	if len(r.Events) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "  EVENT\tMOVED\tAT LEAST\tWITHOUT NEED")
	for _, e := range r.Events {
		if !r.Consistent {
			fmt.Fprintf(t, "  %s\t-\t%.2f%%\t-\n", e.Event, 100*e.Least)
			continue
		}
		fmt.Fprintf(t, "  %s\t%.2f%%\t%.2f%%\t%.2f%%\n", e.Event, 100*e.Moved, 100*e.Least, 100*e.Needless)
	}
	t.Flush()
	if r.Consistent {
		fmt.Fprintln(w, "  Flows without an entry in the flow table that would change their backend; known flows never do.")
	} else {
		fmt.Fprintln(w, "  The policy does not place flows by what they are: flows without an entry in the flow table go anywhere.")
	}
}

func (r *Report) printComparison(w io.Writer) error {
	if len(r.Results) < 2 {
		return nil
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprint(t, "  POLICY\tMAX/MEAN\tχ²\tPEAK OPEN")
	for _, e := range r.Results[0].Events {
		fmt.Fprintf(t, "\t%s", strings.ToUpper(e.Event))
	}
	fmt.Fprintln(t)
	for i := range r.Results {
		v := &r.Results[i]
		fmt.Fprintf(t, "  %s\t%.3f\t%.4g\t%.2f", v.Policy, v.MaxMean, v.ChiSquare, v.Peak)
		for _, e := range v.Events {
			if v.Consistent {
				fmt.Fprintf(t, "\t%.2f%% moved", 100*e.Moved)
			} else {
				fmt.Fprint(t, "\t-")
			}
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}
