package simulate

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"percent": func(v float64) string { return fmt.Sprintf("%.2f %%", 100*v) },
	"round":   func(v float64) string { return fmt.Sprintf("%.3f", v) },
	"short":   func(v float64) string { return fmt.Sprintf("%.4g", v) },
	"color":   func(i int) int { return i%6 + 1 },
}).Parse(pageText))

// HTML writes the report as one page that needs nothing else: its plots are SVG
// inside.
func (r *Report) HTML(w io.Writer) error {
	return page.Execute(w, struct {
		*Report
		First     *Result
		Shares    []shareBar
		ShareTall int
		Lines     []line
		Grid      []gridLine
		Marks     []mark
	}{r, &r.Results[0], r.Results[0].shareBars(), 26*len(r.Results[0].Backends) + 10, r.lines(), r.grid(), r.marks()})
}

// The plots' coordinates are in the units of their view box.
const (
	plotLeft, plotWide = 44.0, 680.0
	plotTop, plotTall  = 10.0, 220.0
	shareWide          = 520.0
)

// shareBar is one backend in the plot of the shares.
type shareBar struct {
	Name              string
	Y, Wide, Fair     float64
	Share, FairShare  float64
	Flows             uint64
	Weight            uint32
	LabelAt, NumberAt float64
	Deviation         string
}

func (r *Result) shareBars() (out []shareBar) {
	placed, most := 0.0, 0.0
	for _, b := range r.Backends {
		placed += float64(b.Flows)
		most = max(most, float64(b.Flows), b.Fair)
	}
	for i, b := range r.Backends {
		flows := float64(b.Flows)
		s := shareBar{
			Name: b.Name, Flows: b.Flows, Weight: b.Weight, Y: float64(26*i) + 4,
			Wide: shareWide * flows / max(most, 1), Fair: shareWide * b.Fair / max(most, 1),
			Share: flows / max(placed, 1), FairShare: b.Fair / max(placed, 1), Deviation: "–",
		}
		s.LabelAt, s.NumberAt = s.Y+14, max(s.Wide, s.Fair)+8
		if b.Fair > 0 {
			s.Deviation = fmt.Sprintf("%+.2f %%", 100*(flows/b.Fair-1))
		}
		out = append(out, s)
	}
	return out
}

// line is one policy's imbalance over time.
type line struct{ Name, Points string }

// ceiling returns the top of the plot of imbalance.
func (r *Report) ceiling() float64 {
	top := 1.5
	for _, v := range r.Results {
		for i, y := range v.Imbalance {
			if i > len(v.Imbalance)/20 { // the first few flows say nothing
				top = max(top, y)
			}
		}
	}
	return math.Ceil(2*top) / 2
}

func plotY(v, top float64) float64 { return plotTop + plotTall*(1-(min(v, top)-1)/(top-1)) }

func (r *Report) lines() (out []line) {
	top := r.ceiling()
	for _, v := range r.Results {
		var points strings.Builder
		for i, y := range v.Imbalance {
			if i > len(v.Imbalance)/50 {
				fmt.Fprintf(&points, "%.1f,%.1f ", plotLeft+plotWide*float64(i)/float64(len(v.Imbalance)), plotY(max(y, 1), top))
			}
		}
		out = append(out, line{v.Policy, points.String()})
	}
	return out
}

// gridLine is a horizontal one with its value.
type gridLine struct {
	Y     float64
	Label string
}

func (r *Report) grid() (out []gridLine) {
	top := r.ceiling()
	for i := range 5 {
		v := 1 + (top-1)*float64(i)/4
		out = append(out, gridLine{plotY(v, top), fmt.Sprintf("%.2f", v)})
	}
	return out
}

// mark is an event.
type mark struct {
	X, LabelAt float64
	Text       string
}

func (r *Report) marks() (out []mark) {
	for i, e := range r.Results[0].Events {
		out = append(out, mark{plotLeft + plotWide*e.At, plotTop + 12 + float64(14*(i%3)), e.Event})
	}
	return out
}
