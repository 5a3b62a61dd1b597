package fastpath

import (
	"testing"

	"github.com/caplance/caplance/core"
)

// BenchmarkSums reads the sums of 10 000 memberships.
func BenchmarkSums(b *testing.B) {
	testLink(b)
	snapshot := testSnapshot()
	settings := *snapshot.Settings
	settings.MaxBackends = 1 << 14
	snapshot.Settings = &settings
	f := open(b, snapshot)
	f.mu.Lock()
	f.targets[9_999].Handle = uint32(core.Handle(9_999))
	f.mu.Unlock()
	b.Run("all", func(b *testing.B) {
		for b.Loop() {
			if _, err := f.Sums(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("one by one", func(b *testing.B) {
		for b.Loop() {
			f.sumsOneByOne(10_000)
		}
	})
}
