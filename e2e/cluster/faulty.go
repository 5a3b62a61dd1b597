package cluster

// FaultyPolicy builds a policy that behaves until the hash of a flow ends in two zero
// bits while so many backends are eligible, 0: however many, and then does what body
// says. A wasm module is short enough to write by hand: sections type, function,
// memory, global, export, code.
func FaultyPolicy(body []byte, eligible byte) []byte {
	section := func(id byte, items ...[]byte) []byte {
		out := []byte{byte(len(items))}
		for _, i := range items {
			out = append(out, i...)
		}
		return append([]byte{id, byte(len(out))}, out...)
	}
	export := func(name string, kind, index byte) []byte {
		return append(append([]byte{byte(len(name))}, name...), kind, index)
	}
	code := func(b ...byte) []byte { return append([]byte{byte(len(b) + 2), 0}, append(b, 0x0b)...) }
	pick := []byte{0x20, 0, 0x42, 3, 0x83, 0x50} // (hash & 3) == 0
	if eligible > 0 {
		pick = append(pick, 0x23, 0, 0x41, eligible, 0x46, 0x71) // and eligible == …
	}
	pick = append(pick, 0x04, 0x7f)                           // if → i32
	pick = append(append(pick, body...), 0x05, 0x41, 0, 0x0b) // else 0
	out := []byte("\x00asm\x01\x00\x00\x00")
	out = append(out, section(1, []byte{0x60, 0, 0}, []byte{0x60, 2, 0x7f, 0x7f, 1, 0x7f}, []byte{0x60, 2, 0x7e, 0x7f, 1, 0x7f})...)
	out = append(out, section(3, []byte{0}, []byte{1}, []byte{1}, []byte{2})...)
	out = append(out, section(5, []byte{1, 1, 1})...)
	out = append(out, section(6, []byte{0x7f, 1, 0x41, 0, 0x0b})...) // eligible
	out = append(out, section(7, export("memory", 2, 0), export("caplance_abi_v1", 0, 0), export("caplance_buffer", 0, 1),
		export("caplance_backends", 0, 2), export("caplance_pick", 0, 3))...)
	return append(out, section(10, code(), code(0x41, 0), code(0x20, 1, 0x24, 0, 0x41, 0), code(pick...))...)
}
