package agent

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// load returns how hard the machine's CPUs are pressed, in percent with one decimal:
// the share of the last ten seconds in which something waited for a CPU (PSI,
// Documentation/accounting/psi.rst), or else the load average of a minute per CPU. It
// is "" where there is neither.
func load() string {
	if b, err := os.ReadFile("/proc/pressure/cpu"); err == nil {
		if p, ok := pressure(b); ok {
			return p
		}
	}
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	avg, _, _ := strings.Cut(string(b), " ")
	n, err := strconv.ParseFloat(avg, 64)
	if err != nil {
		return ""
	}
	return percent(100 * n / float64(runtime.NumCPU()))
}

// pressure reads avg10 of the line "some" of a PSI file.
func pressure(b []byte) (string, bool) {
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("some avg10=")); ok {
			avg, _, _ := strings.Cut(string(rest), " ")
			if n, err := strconv.ParseFloat(avg, 64); err == nil {
				return percent(n), true
			}
		}
	}
	return "", false
}

func percent(p float64) string { return strconv.FormatFloat(max(0, min(p, 100)), 'f', 1, 64) }
