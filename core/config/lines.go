package config

import (
	"fmt"
	"strings"
)

// lineIndex maps the keys and tables of a TOML text to the lines, from 1, on
// which they stand; the tables of an array are counted: "service[1].vip". The
// text is only skimmed: the TOML library has the say about what is valid, so
// on invalid or exotic text (keys inside inline tables) entries are missing.
func lineIndex(text string) map[string]int {
	lines := map[string]int{}
	counts := map[string]int{}
	table, line := "", 1
	for text != "" {
		s, rest := statement(text)
		stmt := strings.TrimLeft(s, " \t\r\n")
		at := line + strings.Count(s[:len(s)-len(stmt)], "\n")
		line += strings.Count(s, "\n")
		text = rest
		switch {
		case strings.HasPrefix(stmt, "[["):
			name := qualify(dotted(stmt[2:], "]"), counts)
			table = fmt.Sprintf("%s[%d]", name, counts[name])
			counts[name]++
			if _, ok := lines[name]; !ok {
				lines[name] = at
			}
			lines[table] = at
		case strings.HasPrefix(stmt, "["):
			table = qualify(dotted(stmt[1:], "]"), counts)
			lines[table] = at
		case stmt != "" && stmt[0] != '#':
			lines[join(table, dotted(stmt, "="))] = at
		}
	}
	return lines
}

// qualify gives the arrays of tables around a table the indices of their last ones.
func qualify(name string, counts map[string]int) string {
	parts := strings.Split(name, ".")
	out := parts[0]
	for _, part := range parts[1:] {
		if n := counts[out]; n > 0 {
			out = fmt.Sprintf("%s[%d]", out, n-1)
		}
		out += "." + part
	}
	return out
}

// dotted returns the key before end without its blanks and quotes.
func dotted(s, end string) string {
	s, _, _ = strings.Cut(s, end)
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(" \t\"'", r) {
			return -1
		}
		return r
	}, s)
}

// statement cuts off the first statement with its newline: newlines inside
// brackets and inside multi-line strings belong to it.
func statement(text string) (stmt, rest string) {
	depth := 0
	for i := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '\n':
			if depth <= 0 {
				return text[:i+1], text[i+1:]
			}
		case '[', '{':
			depth++
		case ']', '}':
			depth--
		case '#':
			if n := strings.IndexByte(text[i:], '\n'); n >= 0 {
				i += n - 1
			} else {
				i = len(text)
			}
		case '"', '\'':
			i += quoted(text[i:], c) - 1
		}
	}
	return text, ""
}

// quoted returns the length of the string literal that s starts with.
func quoted(s string, quote byte) int {
	end := string(quote)
	if triple := strings.Repeat(end, 3); strings.HasPrefix(s, triple) {
		end = triple
	}
	for i := len(end); i < len(s); i++ {
		switch {
		case s[i] == '\\' && quote == '"':
			i++
		case strings.HasPrefix(s[i:], end):
			return i + len(end)
		case s[i] == '\n' && len(end) == 1:
			return i // unfinished
		}
	}
	return len(s)
}
