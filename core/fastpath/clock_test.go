package fastpath

import (
	"testing"
	"time"
)

func TestExtend(t *testing.T) {
	for _, tt := range []struct{ was, low, want uint64 }{
		{0, 5, 5},
		{0x1_0000_0005, 5, 0x1_0000_0005},
		{0x1_0000_0005, 0x7fff_ffff, 0x1_7fff_ffff},
		{0x1_ffff_fff0, 0x10, 0x2_0000_0010}, // it wrapped
		{0xffff_fff0, 0x7000_0000, 0x1_7000_0000},
		{0x3_8000_0000, 0x8000_0001, 0x3_8000_0001},
	} {
		if got := extend(tt.was, tt.low); got != tt.want {
			t.Errorf("extend(%#x, %#x) = %#x, want %#x", tt.was, tt.low, got, tt.want)
		}
	}
}

// Jiffies of a kernel with 300 Hz drift from the clock by 115 ms a day: a reading
// that is long ago tells the wrong time until it is read anew.
func TestClockIsReadAgain(t *testing.T) {
	c := newTestbed(t).clock
	right := c.now()
	const month = 30 * 24 * time.Hour
	wrong := uint64(c.jiffies(3 * time.Second))
	c.base.Store(&reading{monotonic() - month, right - uint64(c.jiffies(month)) - wrong})
	if now := c.now(); now > right-wrong/2 {
		t.Fatalf("it is %d, %d was right: nothing was broken", now, right)
	}
	if err := c.sync(); err != nil {
		t.Fatal(err)
	}
	if now := c.now(); now+1 < right || now > right+wrong { // one may be lost in rounding
		t.Errorf("it is %d, %d was right", now, right)
	}
}
