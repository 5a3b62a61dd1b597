package doctor

import (
	"os"
	"strings"
	"testing"

	"github.com/caplance/caplance/core/nettest"
)

// On a machine that runs the other tests all is well, and nothing is left.
func TestExamine(t *testing.T) {
	nettest.Root(t)
	before, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	list, err := Examine()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		t.Logf("%-36s %v %s", f.What, f.OK, f.Detail)
		if older := strings.HasPrefix(f.Without, "without: "); !f.OK && !older { // there is a way without it
			t.Errorf("%s: %s (%s)", f.What, f.Detail, f.Without)
		}
	}
	after, err := os.ReadDir("/proc/self/fd")
	if err != nil || len(after) > len(before)+2 { // the runtime's poller
		t.Errorf("%d descriptors before, %d after: %v", len(before), len(after), err)
	}
}
