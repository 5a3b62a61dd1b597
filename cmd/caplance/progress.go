package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core/plain"
)

// progress is a bar on standard error, where that is a terminal: a log gets
// none of it.
type progress struct {
	w     io.Writer // nil: nobody looks
	begun time.Time
	shown time.Time
}

// quietFor is how long a run may take before it has to say how far it is.
const quietFor = 500 * time.Millisecond

func (inv *invocation) progress() *progress {
	p := &progress{begun: time.Now()}
	out := inv.stderr
	if w, is := out.(plain.Writer); is {
		out = w.W // the bar is drawn with control characters
	}
	if f, is := out.(*os.File); is {
		if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
			p.w = f
		}
	}
	return p
}

// show draws the bar, ten times a second at most.
func (p *progress) show(what string, done, total int) {
	now := time.Now()
	if p.w == nil || now.Sub(p.begun) < quietFor || now.Sub(p.shown) < 100*time.Millisecond || total == 0 {
		return
	}
	p.shown = now
	const width = 30
	full := width * done / total
	fmt.Fprintf(p.w, "\r\x1b[K%-24s %s%s %3d%%", what, strings.Repeat("█", full), strings.Repeat("░", width-full), 100*done/total)
}

// clear takes the bar away before the results are printed.
func (p *progress) clear() {
	if p.w != nil && !p.shown.IsZero() {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
