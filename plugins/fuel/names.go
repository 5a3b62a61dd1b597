package fuel

import (
	"strconv"
	"strings"
)

const (
	nameSection  = "name" // its name (§7.4)
	namesOfFuncs = 1      // the subsection with the names of functions (§7.4.1)
)

// readCustom keeps the names of functions out of the custom sections: they
// make a trap's stack readable. Everything else is dropped: names of locals and
// blocks have no use here, and debugging information is by offsets in code that
// is about to move. A name section with an error is as good as none (§5.5.3),
// and so is one that would write control characters into a log.
func (m *module) readCustom(r *reader) {
	name := r.name()
	names := r.sub(uint32(r.left()))
	if name == nameSection && m.names == nil {
		m.names = funcNames(names)
	}
}

// funcNames returns the subsection with the functions' names if its counts and
// lengths are right: the engine trusts them.
func funcNames(r *reader) []byte {
	for r.more() {
		id := r.byte()
		s := r.sub(r.u32())
		if id != namesOfFuncs {
			continue
		}
		body := s.wasm[s.pos:s.end]
		for n := s.count("names", maxItems); n > 0 && s.ok(); n-- {
			s.u32()
			if strings.ContainsFunc(s.name(), func(c rune) bool { return !strconv.IsPrint(c) }) {
				return nil
			}
		}
		if r.done(s); r.ok() {
			return body
		}
	}
	return nil
}
