package host_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/caplance/caplance/plugins/host"
)

// bomb returns a module of nested loops over 1024 locals: 40 KB for 12 000 of them.
func bomb(loops int) []byte {
	const loop, end = "\x03\x40", "\x0b"
	var gets []byte
	for i := range uint64(1024) {
		gets = append(binary.AppendUvarint(append(gets, 0x20), i), 0x1a)
	}
	body := "\x01\x80\x08\x7f" + strings.Repeat(loop, loops) + string(gets) + strings.Repeat(end, loops+1)
	vec := func(s string) string { return string(binary.AppendUvarint(nil, uint64(len(s)))) + s }
	return []byte("\x00asm\x01\x00\x00\x00\x01\x04\x01\x60\x00\x00\x03\x02\x01\x00\x0a" + vec("\x01"+vec(body)))
}

// Every module that is no policy is refused with a message that names the fix.
func TestCompileRefuses(t *testing.T) {
	modulo := testdata(t, "modulo.wasm")
	tests := []struct {
		name string
		wasm []byte   // nil: testdata/<name>.wasm
		want []string // in the error
	}{
		{"empty", []byte{}, []string{"file is empty"}},
		{"garbage", []byte("#!/bin/sh\n"), []string{"not WebAssembly"}},
		{"text", testdata(t, "modulo.wat")[strings.Index(string(testdata(t, "modulo.wat")), "(module"):], []string{"wat2wasm"}},
		{"commented text", testdata(t, "command-with-abi.wat"), []string{"wat2wasm"}},
		{"component", []byte("\x00asm\x0d\x00\x01\x00"), []string{"component", "wasm32-unknown-unknown"}},
		{"version", []byte("\x00asm\x02\x00\x00\x00"), []string{"unknown version"}},
		{"truncated", modulo[:len(modulo)-5], []string{"cut short"}},
		{"bit-flipped", flipped(modulo), []string{"module is invalid"}},
		{"too-large", make([]byte, host.MaxModuleSize+1), []string{"16777217 bytes", "strip"}},
		{"command", nil, []string{"_start", "c-shared", "--no-entry"}},
		{"command-with-abi", nil, []string{"_start", "c-shared"}},
		{"misspelt", bytes.ReplaceAll(modulo, []byte("caplance_pick"), []byte("caplance_pikc")), []string{"export caplance_pikc is none of the ABI; did you mean caplance_pick", "export caplance_pick is missing"}},
		{"no-memory", nil, []string{`export "memory" is missing`}},
		{"two-memories", nil, []string{"2 memories", "exactly one"}},
		{"big-memory", nil, []string{"300 pages", "256", "--max-memory"}},
		{"big-maximum", nil, []string{"maximum of 300 pages"}},
		{"imported-memory", nil, []string{"memory is imported"}},
		{"imported-global", nil, []string{"env.__stack_pointer (global)"}},
		{"foreign-import", nil, []string{"env.seed (function)", "wasi:cli/exit.exit (function)", "nothing but"}},
		{"bomb", bomb(4000), []string{"module is too heavy: function 0 has 132096 blocks × locals to compile, more than the 131072 allowed"}},
		{"no-pick", nil, []string{"export caplance_pick is missing", "(i64, i32) → i32"}},
		{"wrong-signature", nil, []string{"caplance_pick is (i32, i32) → i32: change it to (i64, i32) → i32", "caplance_tick is (): change it to (i64)"}},
	}
	r := newRuntime(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			wasm := tt.wasm
			if wasm == nil {
				wasm = testdata(t, tt.name+".wasm")
			}
			_, err := r.Compile(context.Background(), "mine", wasm)
			if err == nil {
				t.Fatal("module was accepted")
			}
			for _, want := range append(tt.want, `policy "mine": `) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not mention %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "\n") && tt.name != "bit-flipped" {
				t.Errorf("error %q has more than one line", err)
			}
		})
	}
}

// flipped has a bit wrong in its code: the last instruction but one.
func flipped(wasm []byte) []byte {
	wasm = slices.Clone(wasm)
	wasm[len(wasm)-2] ^= 1
	return wasm
}

func TestNewSchedulerRefuses(t *testing.T) {
	tests := []struct {
		name, config, want string
	}{
		{"unaligned", "", "align it to 8 bytes"},
		{"outside", "", "outside the memory of 65536 bytes"},
		{"trap-at-start", "", "initialization failed"},
		{"modulo", `{"a":1}`, "remove policy_config"},
		{"configured", `{"a":12345}`, "code 1"},
	}
	r := newRuntime(t)
	ctx := context.Background()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := r.Compile(ctx, "mine", testdata(t, tt.name+".wasm"))
			if err != nil {
				t.Fatal(err)
			}
			_, err = p.NewScheduler(ctx, host.Config{Workers: 1, ConfigJSON: []byte(tt.config)})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestConfigReachesTheGuest(t *testing.T) {
	newScheduler(t, testdata(t, "configured.wasm"), host.Config{ConfigJSON: []byte(`{"a":1}`)})
}

func FuzzCompile(f *testing.F) {
	f.Add(testdata(f, "modulo.wasm"))
	f.Add(testdata(f, "moody.wasm"))
	f.Add([]byte("\x00asm\x01\x00\x00\x00\x05\x03\x01\x00\x01"))
	r := newRuntime(f)
	f.Fuzz(func(t *testing.T, wasm []byte) {
		if p, err := r.Compile(context.Background(), "fuzz", wasm); err == nil {
			p.Close(context.Background())
		}
	})
}
