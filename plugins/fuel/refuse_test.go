package fuel_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/caplance/caplance/plugins/fuel"
)

const (
	preamble = "\x00asm\x01\x00\x00\x00"
	oneFunc  = "\x01\x04\x01\x60\x00\x00" + "\x03\x02\x01\x00" // a type () → () and a function of it
)

// withBody returns a module with one function of these instructions.
func withBody(code string) string {
	return preamble + oneFunc + "\x0a" + string([]byte{byte(len(code) + 4), 1, byte(len(code) + 2), 0}) + code + "\x0b"
}

// What Meter refuses, and how. Offsets are those of what is wrong.
func TestMeterRefuses(t *testing.T) {
	tests := []struct {
		name, wasm string
		kind       error
		want       string
	}{
		{"nothing", "", fuel.ErrMalformed, "unexpected end at offset 0x0"},
		{"text", "(module)", fuel.ErrMalformed, "no core module"},
		{"component", "\x00asm\x0d\x00\x01\x00", fuel.ErrMalformed, "no core module"},
		{"section cut short", preamble + "\x01\x05\x01", fuel.ErrMalformed, "unexpected end"},
		{"section too long", preamble + "\x01\x02\x00\x00", fuel.ErrMalformed, "1 bytes too many at offset 0xb"},
		{"sections out of order", preamble + "\x03\x01\x00\x01\x01\x00", fuel.ErrMalformed, "section 1 is unknown or out of order"},
		{"section twice", preamble + "\x01\x01\x00\x01\x01\x00", fuel.ErrMalformed, "out of order"},
		{"tags", preamble + "\x0d\x01\x00", fuel.ErrMalformed, "section 13 is unknown"},
		{"hostile count of imports", preamble + "\x02\x05\xff\xff\xff\xff\x0f", fuel.ErrMalformed, "4294967295 imports do not fit"},
		{"number too long", preamble + "\x01\x06\x80\x80\x80\x80\x80\x00", fuel.ErrMalformed, "number is cut short or too large"},
		{"recursive types", preamble + "\x01\x03\x01\x4e\x00", fuel.ErrUnsupported, "type of form 0x4e"},
		{"typed reference", preamble + "\x01\x06\x01\x60\x01\x63\x00\x00", fuel.ErrUnsupported, "value type 0x63"},
		{"shared memory", preamble + "\x05\x04\x01\x03\x01\x01", fuel.ErrUnsupported, "limits of kind 0x3"},
		{"memory64", preamble + "\x05\x03\x01\x04\x01", fuel.ErrUnsupported, "limits of kind 0x4"},
		{"table limits", preamble + "\x04\x05\x01\x70\x01\x02\x01", fuel.ErrMalformed, "minimum 2 is larger than maximum 1"},
		{"no body", preamble + oneFunc, fuel.ErrMalformed, "1 functions have 0 bodies"},
		{"hostile locals", preamble + oneFunc + "\x0a\x0a\x01\x08\x01\xff\xff\xff\xff\x0f\x7f\x0b", fuel.ErrUnsupported, "4294967295 locals"},
		{"no end", preamble + oneFunc + "\x0a\x04\x01\x02\x00\x01", fuel.ErrMalformed, "unexpected end of a function"},
		{"code after the end", withBody("\x0b"), fuel.ErrMalformed, "1 bytes too many at offset 0x18"},
		{"tail call", withBody("\x12\x00"), fuel.ErrUnsupported, "instruction 0x12 is not of WebAssembly 2.0 at offset 0x17"},
		{"try_table", withBody("\x1f\x40\x00\x0b"), fuel.ErrUnsupported, "instruction 0x1f"},
		{"atomic", withBody("\xfe\x03\x00"), fuel.ErrUnsupported, "instruction 0xfe"},
		{"unknown misc", withBody("\xfc\x12"), fuel.ErrUnsupported, "instruction 0xfc12"},
		{"relaxed vector", withBody("\xfd\x80\x02"), fuel.ErrUnsupported, "instruction 0xfd 0x100"},
		// The engine reads the second byte alone: i16x8.shr_s in place of
		// v128.const, whose bytes it would then execute.
		{"vector in long form", withBody("\xfd\x8c\x00\x03\x40\x0c\x00\x0b\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x1a"), fuel.ErrUnsupported, "shortest form"},
		{"second memory", withBody("\x3f\x01\x1a"), fuel.ErrUnsupported, "memory 1"},
		// Each of these names something that is there once the module is metered.
		{"label of the wrapper", withBody("\x10\x00\x0c\x01"), fuel.ErrMalformed, "label 1 does not exist"},
		{"label in a table", withBody("\x10\x00\x41\x00\x0e\x01\x01\x00"), fuel.ErrMalformed, "label 1 does not exist"},
		{"added local", withBody("\x20\x00\x1a"), fuel.ErrMalformed, "local 0 does not exist"},
		{"fuel read", withBody("\x23\x00\x1a"), fuel.ErrMalformed, "global 0 does not exist"},
		{"fuel written", withBody("\x42\x7f\x24\x00"), fuel.ErrMalformed, "global 0 does not exist"},
		{"added type of a block", withBody("\x02\x01\x0b"), fuel.ErrMalformed, "type 1 does not exist"},
		{"added type of a call", withBody("\x41\x00\x11\x01\x00"), fuel.ErrMalformed, "type 1 does not exist"},
		{"fuel exported", preamble + "\x07\x05\x01\x01x\x03\x00", fuel.ErrMalformed, "global 0 does not exist"},
		{"fuel in an expression", preamble + "\x06\x06\x01\x7e\x00\x23\x01\x0b", fuel.ErrMalformed, "global 1 does not exist"},
		{"reserved export", preamble + "\x06\x06\x01\x7e\x00\x42\x00\x0b\x07\x11\x01\x0d" + fuel.FuelExport + "\x03\x00", fuel.ErrReserved, `"caplance:fuel"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := fuel.Meter([]byte(tt.wasm), plenty)
			if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want %v with %q", err, tt.kind, tt.want)
			}
		})
	}
}

func TestMeterRefusesBudgets(t *testing.T) {
	if _, err := fuel.Meter([]byte(preamble), fuel.Options{Fuel: -1}); err == nil {
		t.Error("a negative budget was accepted")
	}
}
