package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// display prints the script's lines, and beneath it the shares: drawn over in place on
// a terminal, a line a second elsewhere.
type display struct {
	w     io.Writer
	live  bool          // a terminal that moves its cursor
	drawn int           // lines of shares on the terminal
	next  time.Duration // when the next plain line is due
}

func newDisplay(f *os.File) *display {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return &display{w: f, live: err == nil && os.Getenv("TERM") != "dumb", next: time.Second}
}

// printf adds lines above the shares.
func (s *display) printf(format string, args ...any) {
	s.clear()
	fmt.Fprintf(s.w, format, args...)
}

// clear takes the shares off the terminal.
func (s *display) clear() { io.WriteString(s.w, s.erase()) }

// erase returns what takes the shares off the terminal.
func (s *display) erase() (sequence string) {
	if s.drawn > 0 {
		sequence = fmt.Sprintf("\x1b[%dA\x1b[J", s.drawn) // up, and erase to the end
		s.drawn = 0
	}
	return sequence
}

const barWidth = 40

// shares shows at a time of the script what share of the new flows of the last
// second each backend got.
func (s *display) shares(at time.Duration, lines []line) {
	if !s.live {
		s.plain(at, lines)
		return
	}
	b := s.erase() + "\n"
	for _, l := range lines {
		full := min(int(l.recent*barWidth+0.5), barWidth)
		b += fmt.Sprintf("         %s  %s%s %5.1f%%  %5d flows  %s\n", l.name,
			strings.Repeat("█", full), strings.Repeat("░", barWidth-full), 100*l.recent, l.flows, l.state)
	}
	s.drawn = len(lines) + 1
	io.WriteString(s.w, b) // at once, or it flickers
}

func (s *display) plain(at time.Duration, lines []line) {
	if at < s.next {
		return
	}
	s.next = at.Truncate(time.Second) + time.Second
	fmt.Fprintf(s.w, "%5.1f s ", at.Seconds())
	for _, l := range lines {
		fmt.Fprintf(s.w, "  %s %5.1f%% %5d flows", l.name, 100*l.recent, l.flows)
		if l.state != "active" {
			fmt.Fprintf(s.w, " (%s)", l.state)
		}
	}
	fmt.Fprintln(s.w)
}

// table prints the result.
func (s *display) table(lines []line) {
	s.printf("%-8s %8s %7s %9s  %s\n", "backend", "flows", "share", "packets", "state")
	for _, l := range lines {
		s.printf("%-8s %8d %6.1f%% %9d  %s\n", l.name, l.flows, 100*l.share, l.packets, l.state)
	}
}
