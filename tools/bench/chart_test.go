package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

// The chart is well-formed, has a panel for each metric with a baseline and a
// bar for each system in it, as long as its ratio says.
func TestChart(t *testing.T) {
	r := newReport(&bytes.Buffer{})
	for _, m := range []string{"speed", "<time> & more"} {
		base := r.measure(none, m, "µs", nil)
		base.add(10)
		r.measure("caplance tc", m, "µs", base).add(20)
		r.measure("other", m, "µs", base).add(5)
	}
	r.measure("beside", "memory", "B", nil).add(1)
	svg := chart(r.panels())
	bars := 0
	for dec := xml.NewDecoder(strings.NewReader(svg)); ; {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, svg)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
			bars++
		}
	}
	if bars != 1+4 { // and the page
		t.Errorf("%d rectangles\n%s", bars, svg)
	}
	for _, want := range []string{`width="280.0" height="13" rx="2" class="ours"`, `width="70.0" height="13" rx="2" class="peer"`, `<line x1="270.0" x2="270.0" y1="38" y2="80"`, "&lt;time&gt;", "less is better; none: 10 µs"} {
		if !strings.Contains(svg, want) {
			t.Errorf("no %s in\n%s", want, svg)
		}
	}
}
