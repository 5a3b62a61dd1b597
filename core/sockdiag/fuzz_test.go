package sockdiag

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzNotified: whatever comes by the socket, what is read are connections, at most
// one for each message that fits.
func FuzzNotified(f *testing.F) {
	message := func(family, state byte, size int) []byte {
		b := make([]byte, unix.SizeofNlMsghdr+size)
		binary.NativeEndian.PutUint32(b, uint32(len(b)))
		b[unix.SizeofNlMsghdr], b[unix.SizeofNlMsghdr+1] = family, state
		return b
	}
	one := message(unix.AF_INET, 7, messageSize)
	f.Add(one)
	f.Add(append(message(unix.AF_INET6, 7, messageSize+9), 0, 0, 0))
	f.Add(append(append(message(unix.AF_INET, tcpListen, messageSize), one...), one[:20]...))
	f.Add(message(unix.AF_INET, 7, messageSize-1))
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		got := notified(b, nil)
		if len(got) > len(b)/(unix.SizeofNlMsghdr+messageSize) {
			t.Errorf("%d connections in %d bytes", len(got), len(b))
		}
		for _, c := range got {
			if !c.Local.IsValid() || !c.Remote.IsValid() {
				t.Errorf("%v", c)
			}
		}
	})
}
