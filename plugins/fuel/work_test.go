package fuel

import (
	"os"
	"path/filepath"
	"testing"
)

// What compilers make of policies stays below a 50th of what a module may take
// to compile, with all of its functions.
func TestPoliciesAreNoWork(t *testing.T) {
	files := 0
	for _, pattern := range []string{"../../policies/*.wasm", "../sdk/testdata/*.wasm", "../host/testdata/*.wasm"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			wasm, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			m, err := decode(wasm, Options{TableSize: 1 << 16})
			if err != nil {
				continue // one that is to be refused
			}
			files++
			m.work.begin(0)
			if w := m.work; w.spreads > maxSpreads/50 || w.searches > maxSearches/50 || w.moved > maxMoved/50 {
				t.Errorf("%s: %+v", path, w)
			}
		}
	}
	if files < 21 {
		t.Errorf("%d files: this test proves nothing", files)
	}
}

// What waits for memory costs more than what does not.
func TestLoadsCostMore(t *testing.T) {
	const head = "\x00asm\x01\x00\x00\x00\x01\x04\x01\x60\x00\x00\x03\x02\x01\x00\x04\x04\x01\x70\x00\x01\x05\x03\x01\x00\x01\x0a"
	for name, tt := range map[string]struct {
		code string
		want uint64
	}{
		"i32.load":          {"\x41\x00\x28\x02\x00\x1a", 1 + costMiss + 1},
		"i64.load32_u":      {"\x41\x00\x35\x02\x00\x1a", 1 + costMiss + 1},
		"v128.load":         {"\x41\x00\xfd\x00\x04\x00\x1a", 1 + costMiss + 1},
		"v128.load64_zero":  {"\x41\x00\xfd\x5d\x03\x00\x1a", 1 + costMiss + 1},
		"i32.store":         {"\x41\x00\x41\x00\x36\x02\x00", 3},
		"v128.store":        {"\x41\x00\xfd\x0c" + "0123456789abcdef" + "\xfd\x0b\x04\x00", 3},
		"table.get":         {"\x41\x00\x25\x00\x1a", 1 + costMiss + 1},
		"call_indirect":     {"\x41\x00\x11\x00\x00", 1 + costMiss},
		"memory.fill":       {"\x41\x00\x41\x00\x41\x00\xfc\x0b\x00", 3 + costRun},
		"two local numbers": {"\x41\x00\x1a", 2},
	} {
		body := "\x00" + tt.code + "\x0b"
		wasm := head + string([]byte{byte(len(body) + 2), 1, byte(len(body))}) + body
		m, err := decode([]byte(wasm), Options{TableSize: 1})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if got := m.bodies[0].cost; got != tt.want+1 { // and the end
			t.Errorf("%s costs %d, want %d", name, got-1, tt.want)
		}
	}
}
