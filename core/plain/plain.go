// Package plain is for text that people read. It keeps control characters away from
// terminals and logs: names come from modules, recordings and other machines, and an
// escape sequence in one would move the cursor, paint over what stands there or retitle
// the window. It also guesses what a misspelt word was meant to be.
//
//	w := plain.Writer{W: os.Stdout}
//	fmt.Fprintln(w, "\x1b[2J") // prints \u001b[2J
//	plain.Name("a\nb")         // "a\nb", quoted
package plain

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Name returns a name as it is where that is one printable word, and quoted
// otherwise: so it can neither end a line nor pass for two.
func Name(s string) string {
	if s == "" || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r == ' ' || r == '"' || !printable(r) }) {
		return strconv.Quote(s)
	}
	return s
}

// Writer writes text to W with everything escaped that is not printable but
// the ends of lines and tabs: as \u001b, which JSON understands, too. It may
// be used by as many goroutines as W.
type Writer struct{ W io.Writer }

// Write implements io.Writer; a rune must not be split over two calls.
func (w Writer) Write(b []byte) (int, error) {
	if clean(b) {
		return w.W.Write(b)
	}
	if _, err := w.W.Write(escape(b)); err != nil {
		return 0, err
	}
	return len(b), nil
}

func clean(b []byte) bool {
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if !layout(r) && !printable(r) || r == utf8.RuneError && n == 1 {
			return false
		}
		i += n
	}
	return true
}

func escape(b []byte) []byte {
	out := make([]byte, 0, 2*len(b))
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		switch {
		case layout(r) || printable(r):
			out = utf8.AppendRune(out, r) // U+FFFD for a byte that is no UTF-8
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		b = b[n:]
	}
	return out
}

func layout(r rune) bool { return r == '\n' || r == '\t' }

func printable(r rune) bool { return strconv.IsPrint(r) }
