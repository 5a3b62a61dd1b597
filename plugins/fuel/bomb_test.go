package fuel_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/caplance/caplance/plugins/fuel"
)

// bomb is a module of functions that are all the same, with parameters, results
// and locals of i32.
type bomb struct {
	params, results, locals int
	body                    []byte
	copies                  int // of the function; 0 is 1
}

func vec(b ...[]byte) []byte {
	all := bytes.Join(b, nil)
	return append(binary.AppendUvarint(nil, uint64(len(all))), all...)
}

func num(n int) []byte { return binary.AppendUvarint(nil, uint64(n)) }

func times(n int, code ...byte) []byte { return bytes.Repeat(code, n) }

// gets reads n locals from the one numbered first on, and drops them.
func gets(first, n int) (code []byte) {
	for i := range n {
		code = append(append(append(code, 0x20), num(first+i)...), 0x1a)
	}
	return code
}

// params reads all parameters, which leaves them on the stack.
func params(n int) (code []byte) {
	for i := range n {
		code = append(append(code, 0x20), num(i)...)
	}
	return code
}

func (m bomb) wasm() []byte {
	section := func(id byte, b ...[]byte) []byte { return append([]byte{id}, vec(b...)...) }
	n := max(1, m.copies)
	out := []byte(preamble)
	out = append(out, section(1, []byte{1, 0x60}, num(m.params), times(m.params, 0x7f), num(m.results), times(m.results, 0x7f))...)
	out = append(out, section(3, num(n), make([]byte, n))...)
	out = append(out, section(5, []byte{1, 0, 1})...)
	groups := []byte{0}
	if m.locals > 0 {
		groups = append(append([]byte{1}, num(m.locals)...), 0x7f)
	}
	function := vec(groups, m.body, []byte{0x0b})
	return append(out, section(10, num(n), bytes.Repeat(function, n))...)
}

// Small modules that take the engine long to compile, and much memory: in the
// comments is what they took before they were refused, or a larger one did.
func TestMeterRefusesBombs(t *testing.T) {
	join := func(b ...[]byte) []byte { return bytes.Join(b, nil) }
	const end = 0x0b
	tests := []struct {
		name string
		bomb bomb
		want string
	}{
		// 4000 loops and 1000 locals, 28 KB: 9 s, 630 MiB.
		{"nested loops", bomb{locals: 1000, body: join(times(4000, 0x03, 0x40), gets(0, 1000), times(4000, end))}, "blocks × locals"},
		// 4000 ifs over 1000 locals: 4 s, 580 MiB.
		{"paths that meet", bomb{locals: 1000, body: join(times(4000, 0x41, 0, 0x04, 0x40, 0x41, 0, 0x21, 0, end), gets(0, 1000))}, "blocks × locals"},
		{"labels over locals", bomb{locals: 1000, body: join([]byte{0x03, 0x40, 0x41, 0, 0x0e}, num(4000), make([]byte, 4001), []byte{end})}, "blocks × locals"},
		{"labels", bomb{body: join([]byte{0x41, 0, 0x0e}, num(20_000), make([]byte, 20_001))}, "20001 labels, more than the 16384 allowed"},
		{"branches, then reads", bomb{locals: 1, body: join(times(5000, 0x41, 0, 0x0d, 0), gets(0, 0), times(5000, 0x20, 0, 0x1a))}, "blocks × values"},
		{"values alive over blocks", bomb{body: join(times(4000, 0x41, 0, 0x28, 2, 0), times(4000, 0x41, 0, 0x04, 0x40, end), times(4000, 0x1a))}, "blocks × values"},
		// 400 calls, 7 KB: 0.6 s, 300 MiB.
		{"calls of 1000 parameters", bomb{params: 1000, results: 1000, body: join(params(1000), times(400, 0x10, 0))}, "values to compile"},
		{"blocks of 1000 parameters", bomb{params: 1000, results: 1000, body: join(params(1000), times(400, 0x02, 0, end))}, "blocks × locals"},
		{"branches with 100 results", bomb{params: 100, results: 100, body: join(params(100), times(1000, 0x41, 0, 0x0d, 0))}, "blocks × values"},
		{"depth", bomb{body: join(times(5000, 0x02, 0x40), times(5000, end))}, "nests 4097 blocks, more than the 4096 allowed"},
		{"length", bomb{body: times(100_000, 0x41, 0, 0x1a, 0x01)}, "values to compile"},
		{"many functions", bomb{locals: 250, copies: 50, body: join(times(500, 0x03, 0x40), gets(0, 250), times(500, end))}, "functions up to 16 have"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			wasm := tt.bomb.wasm()
			_, err := fuel.Meter(wasm, plenty)
			if !errors.Is(err, fuel.ErrHeavy) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "function") {
				t.Errorf("%d bytes: error is %v, want one with %q", len(wasm), err, tt.want)
			}
		})
	}
}

// Each type's name takes the engine, also in the live process, a time that is quadratic in
// its parameters: 16 MB of types took 20 s and some hundred MB.
func TestMeterBoundsTypes(t *testing.T) {
	module := func(types, params int) []byte {
		one := append(append([]byte{0x60}, num(params)...), times(params, 0x7f)...)
		all := append(num(types), bytes.Repeat(append(one, 0), types)...)
		return append(append([]byte(preamble), 1), vec(all)...)
	}
	for _, tt := range []struct {
		types, params int
		want          string
	}{
		{65, 1000, ""},
		{66, 1000, "types have more than 65536 parameters and results in all"},
		{65536, 1, ""},
		{65537, 1, "types have more than 65536"},
	} {
		_, err := fuel.Meter(module(tt.types, tt.params), fuel.Options{Fuel: 1, Depth: 1, TableSize: 1})
		if (err == nil) != (tt.want == "") || err != nil && (!errors.Is(err, fuel.ErrHeavy) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%d types of %d parameters: %v, want %q", tt.types, tt.params, err, tt.want)
		}
	}
}
