package ruleset

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core/nettest"
)

// owned returns a target at work, in a network namespace where tables can have an
// owner.
func owned(t *testing.T) (*CaptureTarget, *Capture) {
	t.Helper()
	foreign(t)
	if err := CanOwn(); errors.Is(err, errUnowned) {
		nettest.Unbuilt(t, "tables with an owner (Linux 6.9)")
	} else if err != nil {
		t.Fatal(err)
	}
	one, _, _ := captures()
	target := NewCapture()
	if err := errors.Join(target.Add(t.Context(), nil, one), target.Prune(t.Context(), nil, one)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = target.Release() })
	return target, one
}

// Nobody takes away what a live process owns, and a flush passes it by.
func TestOwnerKeepsItsTables(t *testing.T) {
	target, one := owned(t)
	want := footprint(t)
	conn, err := connect()
	if err != nil {
		t.Fatal(err)
	}
	conn.DelTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: Table})
	if err := conn.Flush(); !errors.Is(err, unix.EPERM) {
		t.Errorf("deleted by another: %v", err)
	}
	if conn, err = connect(); err != nil {
		t.Fatal(err)
	}
	conn.FlushRuleset()
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := footprint(t); got == want || !strings.Contains(want, got) {
		t.Errorf("after a flush\n%s\nof\n%s", got, want)
	}
	if err := target.Verify(t.Context(), one); err != nil {
		t.Errorf("after a flush: %v", err)
	}
	if err := Remove(); !errors.Is(err, unix.EPERM) {
		t.Errorf("removed by another: %v", err)
	}
	second := NewCapture()
	if err := second.Add(t.Context(), nil, one); err == nil || !strings.Contains(err.Error(), "another process owns it") {
		t.Errorf("a second owner: %v", err)
	}
	if err := target.Remove(); err != nil || strings.Contains(footprint(t), Table) {
		t.Errorf("removed by the owner: %v\n%s", err, footprint(t))
	}
}

// The tables outlive their owner, and the next one has them.
func TestSuccessorOwns(t *testing.T) {
	target, one := owned(t)
	want := footprint(t)
	if err := target.tables.owner.close(); err != nil { // as a kill does
		t.Fatal(err)
	}
	if got := footprint(t); got != want {
		t.Errorf("after a kill\n%s\nwant\n%s", got, want)
	}
	next := NewCapture()
	if err := next.Add(t.Context(), nil, one); err != nil || next.tables.owner == nil {
		t.Fatalf("owner %v, %v", next.tables.owner, err)
	}
	if err := Remove(); !errors.Is(err, unix.EPERM) {
		t.Errorf("removed by another: %v", err)
	}
	if err := next.Release(); err != nil {
		t.Fatal(err)
	}
	if got := footprint(t); got != want {
		t.Errorf("released\n%s\nwant\n%s", got, want)
	}
	if err := Remove(); err != nil || strings.Contains(footprint(t), Table) {
		t.Errorf("what nobody owns: %v\n%s", err, footprint(t))
	}
}

// Tables of somebody who did not own them are changed as they are: to make them
// anew would drop what waits in queues.
func TestUnownedTablesAreTakenOver(t *testing.T) {
	foreign(t)
	one, two, _ := captures()
	first := NewCapture().Share()
	if err := first.Add(t.Context(), nil, one); err != nil {
		t.Fatal(err)
	}
	next := NewCapture()
	if err := errors.Join(next.Add(t.Context(), nil, two), next.Prune(t.Context(), nil, two)); err != nil {
		t.Fatal(err)
	}
	if next.tables.owner != nil || next.Verify(t.Context(), two) != nil {
		t.Errorf("owner %v, %v", next.tables.owner, next.Verify(t.Context(), two))
	}
	if err := next.Remove(); err != nil {
		t.Error(err)
	}
}
