package host

import (
	"context"
	"encoding/binary"
	"fmt"
	"unicode/utf16"

	"github.com/caplance/caplance/core/plain"
	"github.com/tetratelabs/wazero/api"
)

// abort ends the call of an AssemblyScript program when an assertion or a bounds
// check fails. message and file point to strings: UTF-16 code units with their
// length in bytes in the word before them (AssemblyScript runtime, "header
// layout"); 0 is none. The panic becomes a trap of the guest.
func abort(_ context.Context, m api.Module, message, file, line, column uint32) {
	panic(fmt.Errorf("abort: %s (%s:%d:%d)", guestString(m.Memory(), message), guestString(m.Memory(), file), line, column))
}

// maxGuestString bounds what a guest can make the host copy, in bytes.
const maxGuestString = 1024

func guestString(mem api.Memory, ptr uint32) string {
	size, ok := mem.ReadUint32Le(ptr - 4)
	if ptr < 4 || !ok {
		return "?"
	}
	b, ok := mem.Read(ptr, min(size, maxGuestString)&^1)
	if !ok {
		return "?"
	}
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return plain.Name(string(utf16.Decode(units)))
}
