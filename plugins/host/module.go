package host

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// outline is what must be known of a module before it is compiled, because
// the engine's own message would not tell the author what to do.
type outline struct {
	imports  []importDesc
	memories []limits // imported ones included
}

type importDesc struct {
	module, name string
	kind         byte
}

// limits of a memory in pages; max < 0 is none.
type limits struct{ min, max int64 }

// Sections and external kinds (WebAssembly Core Specification 2.0, §5.5.2 and
// §5.5.5).
const (
	sectionImport = 2
	sectionMemory = 5

	kindFunc   = 0
	kindTable  = 1
	kindMemory = 2
	kindGlobal = 3
)

var kindNames = map[byte]string{kindFunc: "function", kindTable: "table", kindMemory: "memory", kindGlobal: "global"}

var errMalformed = errors.New("module is malformed")

// readOutline walks the sections of a module whose preamble has been checked.
// It reads no more than it needs; validation is the engine's business.
func readOutline(wasm []byte) (*outline, error) {
	o := new(outline)
	r := reader{b: wasm[8:]}
	for len(r.b) > 0 && !r.bad {
		id := r.byte()
		body := reader{b: r.bytes()}
		switch id {
		case sectionImport:
			o.readImports(&body)
		case sectionMemory:
			for n := body.uint(); n > 0 && !body.bad; n-- {
				o.memories = append(o.memories, body.limits())
			}
		}
		r.bad = r.bad || body.bad
	}
	if r.bad {
		return nil, errMalformed
	}
	return o, nil
}

func (o *outline) readImports(r *reader) {
	for n := r.uint(); n > 0 && !r.bad; n-- {
		d := importDesc{module: string(r.bytes()), name: string(r.bytes()), kind: r.byte()}
		o.imports = append(o.imports, d)
		switch d.kind {
		case kindFunc:
			r.uint() // type index
		case kindTable:
			r.byte() // element type
			r.limits()
		case kindMemory:
			o.memories = append(o.memories, r.limits())
		case kindGlobal:
			r.byte() // value type
			r.byte() // mutability
		default:
			r.bad = true
		}
	}
}

// reader decodes the binary format's primitives. After the first error bad is
// set and everything reads as zero.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

// uint reads an unsigned LEB128 number.
func (r *reader) uint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

// bytes reads a vector of bytes.
func (r *reader) bytes() []byte {
	n := r.uint()
	if n > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) limits() limits {
	l := limits{max: -1}
	flags := r.byte()
	l.min = int64(r.uint())
	if flags&1 != 0 {
		l.max = int64(r.uint())
	}
	return l
}

var (
	wasmMagic      = []byte("\x00asm")
	versionModule  = []byte{1, 0, 0, 0}
	versionPreview = []byte{0x0d, 0, 1, 0} // a component (Component Model, Binary.md)
)

// isText reports whether a file is WebAssembly text, which may begin with comments.
func isText(file []byte) bool {
	file = bytes.TrimLeft(file, " \t\r\n")
	return bytes.HasPrefix(file, []byte("(module")) || bytes.HasPrefix(file, []byte(";;")) || bytes.HasPrefix(file, []byte("(;"))
}

// checkPreamble tells the files apart that people mistake for modules.
func checkPreamble(wasm []byte, limit int) error {
	switch {
	case len(wasm) == 0:
		return errors.New("file is empty: build the policy again")
	case len(wasm) > limit:
		return errTooLarge(len(wasm), limit)
	case isText(wasm):
		return errors.New("file is WebAssembly text: assemble it with wat2wasm and name the .wasm")
	case len(wasm) < 8 || !bytes.Equal(wasm[:4], wasmMagic):
		return errors.New("file is not WebAssembly (no \\0asm at its start): name a .wasm file")
	case bytes.Equal(wasm[4:8], versionPreview):
		return errors.New("file is a component: build a core module (Rust: --target wasm32-unknown-unknown or wasm32-wasip1, not wasip2)")
	case !bytes.Equal(wasm[4:8], versionModule):
		return errors.New("module has an unknown version of the binary format: build it for WebAssembly 1 or 2")
	}
	return nil
}
