package state

import "testing"

// BenchmarkRestore takes over 20 000 memberships.
func BenchmarkRestore(b *testing.B) {
	s, _ := many(b, 1000, 20)
	saved := s.Save(s.Snapshot())
	for b.Loop() {
		newStore(b).Restore(saved)
	}
}
