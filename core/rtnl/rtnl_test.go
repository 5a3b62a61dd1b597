package rtnl

import (
	"errors"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestDump(t *testing.T) {
	calls := 0
	interrupted := func(times int, then error) func() ([]int, error) {
		calls = 0
		return func() ([]int, error) {
			if calls++; calls <= times {
				return []int{1}, netlink.ErrDumpInterrupted
			}
			return []int{1, 2}, then
		}
	}
	if out, err := Dump(interrupted(3, nil)); len(out) != 2 || err != nil || calls != 4 {
		t.Errorf("%v, %v after %d calls, want the complete answer after 4", out, err, calls)
	}
	if _, err := Dump(interrupted(0, os.ErrPermission)); !errors.Is(err, os.ErrPermission) || calls != 1 {
		t.Errorf("%v after %d calls, want the error after one", err, calls)
	}
	if _, err := Dump(interrupted(tries, nil)); !errors.Is(err, netlink.ErrDumpInterrupted) || calls != tries {
		t.Errorf("%v after %d calls, want an end after %d", err, calls, tries)
	}
}
