package main

import (
	"fmt"
	"html"
	"os"
	"strings"
)

// Sizes of the chart, in px: panels in two columns, a row for each system.
const (
	panelWidth = 470
	labelWidth = 130
	barsWidth  = 280
	rowHeight  = 18
	headHeight = 44 // of a panel: two lines of text
	margin     = 16
)

// style serves light and dark pages, and pages that an <img> shows it in.
const style = `<style>
.page { fill: #fcfcfb } text { font: 12px system-ui, sans-serif; fill: #33322f }
.value { paint-order: stroke; stroke: #fcfcfb; stroke-width: 4px }
.title { font-weight: 600; font-size: 13px } .note { fill: #6b6a65 } .label { text-anchor: end }
.ours { fill: #2a78d6 } .peer { fill: #a3a29b } .none { stroke: #33322f; stroke-dasharray: 3 3 }
@media (prefers-color-scheme: dark) {
.page { fill: #1a1a19 } text { fill: #deddd6 } .note { fill: #a09f98 }
.value { stroke: #1a1a19 } .ours { fill: #3987e5 } .peer { fill: #7a7972 } .none { stroke: #deddd6 }
}
</style>
`

// panel is one metric of the chart: what it was with nothing between, and the
// ratios of the systems to that.
type panel struct {
	base *series
	bars []*series
}

func (p *panel) height() int { return headHeight + rowHeight*len(p.bars) + margin }

// panels returns the metrics that have ratios to the system none.
func (r *report) panels() (panels []*panel) {
	of := map[*series]*panel{}
	for _, s := range r.series {
		if s.base == nil || s.base.system != none {
			continue
		}
		if of[s.base] == nil {
			of[s.base] = &panel{base: s.base}
			panels = append(panels, of[s.base])
		}
		of[s.base].bars = append(of[s.base].bars, s)
	}
	return panels
}

// draw writes the chart as an SVG file.
func (r *report) draw(file string) error {
	if err := os.WriteFile(file, []byte(chart(r.panels())), 0o644); err != nil {
		return fmt.Errorf("chart: %w", err)
	}
	return nil
}

// chart lays the panels out, each row as high as its higher panel.
func chart(panels []*panel) string {
	var body strings.Builder
	y := 3 * margin
	for i := 0; i < len(panels); i += 2 {
		height := 0
		for j, p := range panels[i:min(i+2, len(panels))] {
			fmt.Fprintf(&body, "<g transform=\"translate(%d %d)\">\n%s</g>\n", margin+j*(panelWidth+margin), y, p)
			height = max(height, p.height())
		}
		y += height
	}
	width := 2*panelWidth + 3*margin
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%[1]d" height="%[2]d" role="img" aria-label="Caplance and others, as ratios to no balancer">
%s<rect class="page" width="100%%" height="100%%"/>
<text x="%d" y="26" class="title">As ratios to a client straight at the backend (dashed), medians of one run</text>
%s</svg>
`, width, y, style, margin, &body)
}

// String returns the panel's SVG, its upper left corner at 0, 0.
func (p *panel) String() string {
	longest := 1.0
	for _, s := range p.bars {
		longest = max(longest, *s.ratio())
	}
	better := "more is better"
	if p.base.unit == "µs" || p.base.unit == "ns" {
		better = "less is better"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "<text y=\"12\" class=\"title\">%s</text>\n<text y=\"28\" class=\"note\">%s; none: %s %s</text>\n",
		html.EscapeString(p.base.metric), better, number(median(p.base.samples)), p.base.unit)
	x := labelWidth + barsWidth/longest
	fmt.Fprintf(&b, "<line x1=\"%.1f\" x2=\"%.1[1]f\" y1=\"%d\" y2=\"%d\" class=\"none\"/>\n", x, headHeight-6, headHeight+rowHeight*len(p.bars))
	for i, s := range p.bars {
		y, length := headHeight+i*rowHeight, *s.ratio()/longest*barsWidth
		class := "peer"
		if strings.HasPrefix(s.system, "caplance") {
			class = "ours"
		}
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" class=\"label\">%s</text>", labelWidth-6, y+9, html.EscapeString(s.system))
		fmt.Fprintf(&b, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" rx=\"2\" class=\"%s\"/>", labelWidth, y-2, length, rowHeight-5, class)
		fmt.Fprintf(&b, "<text x=\"%.1f\" y=\"%d\" class=\"value\">%.2f</text>\n", labelWidth+length+5, y+9, *s.ratio())
	}
	return b.String()
}
