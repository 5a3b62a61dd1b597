package ruleset

import "testing"

// A counter goes on when the kernel's begins anew.
func TestCounted(t *testing.T) {
	var c counted
	for _, step := range []struct{ kernel, want uint64 }{{3, 3}, {3, 3}, {5, 5}, {0, 5}, {2, 7}, {1, 8}} {
		if c.see(step.kernel); c.before+c.last != step.want {
			t.Errorf("%d in the kernel: %d, want %d", step.kernel, c.before+c.last, step.want)
		}
	}
}
