package load

import (
	"errors"
	"io"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Recovery is the longest of all marks; what succeeds late is trouble until it ends,
// what fails when it begins.
func TestTally(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tally := newTally()
		time.Sleep(time.Second)
		tally.opened("before", time.Now(), nil)
		tally.Mark()
		began := time.Now()
		time.Sleep(2 * time.Second)
		tally.answered(began) // 2 s after the first mark
		tally.datagram(time.Now(), nil, true)
		tally.Mark()
		time.Sleep(500 * time.Millisecond)
		tally.datagram(time.Now(), errUnanswered, false) // 0.5 s after the second
		tally.opened("refused", time.Now(), syscall.ECONNREFUSED)
		time.Sleep(time.Second)
		tally.opened("good", time.Now(), nil)
		c := tally.cost(time.Now())
		want := Cost{Opened: 3, Failed: 1, Moved: 1, Asked: 2, Lost: 1, Gap: 3500 * time.Millisecond, Stall: 2 * time.Second, Recovery: 2 * time.Second, Troubles: 3}
		if len(c.Why) != 3 {
			t.Errorf("%q", c.Why)
		}
		c.Why = nil
		if diff := cmp.Diff(want, c); diff != "" {
			t.Error(diff)
		}
	})
}

// An end is a reset, silence is none.
func TestEnded(t *testing.T) {
	for err, want := range map[error]bool{io.EOF: true, syscall.ECONNRESET: true, syscall.EPIPE: true, os.ErrDeadlineExceeded: false, errors.New("echo"): false} {
		if got := ended(err); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}
