package fastpath

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Probes find what the kernel's version promises. Distributions port features back
// and leave some out, so what an old kernel has beyond its version is no error.
func TestFeatures(t *testing.T) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	kernel := version(t, unix.ByteSliceToString(u.Release[:]))
	for _, f := range Features() {
		err := f.Have()
		var unsupported *UnsupportedFeatureError
		switch {
		case err == nil:
			t.Logf("%s: there, since %s", f.Name, f.Since)
		case !errors.As(err, &unsupported):
			t.Errorf("%s: %v", f.Name, err)
		case kernel >= version(t, f.Since):
			t.Errorf("%s: came with Linux %s, and Linux %s: %v", f.Name, f.Since, unix.ByteSliceToString(u.Release[:]), err)
		default:
			t.Logf("%s: %v; without: %s", f.Name, err, f.Without)
		}
	}
}

// version returns the first two parts of a kernel's version as a number.
func version(t *testing.T, release string) int {
	t.Helper()
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		t.Fatalf("%s: %v", release, err)
	}
	return major<<8 | minor
}

func TestUnsupportedFeature(t *testing.T) {
	probes := 0
	f := &Feature{Name: "time travel", Since: "9.9", probe: func() error { probes++; return fmt.Errorf("probe: %w", ebpf.ErrNotSupported) }}
	for range 2 {
		err := f.Have()
		var u *UnsupportedFeatureError
		if !errors.Is(err, ebpf.ErrNotSupported) || !errors.As(err, &u) || !strings.Contains(err.Error(), "time travel") || !strings.Contains(err.Error(), "Linux 9.9") {
			t.Errorf("error %v", err)
		}
	}
	if probes != 1 {
		t.Errorf("probed %d times", probes)
	}
	f = &Feature{Name: "rights", probe: func() error { return unix.EPERM }}
	if err := f.Have(); !errors.Is(err, unix.EPERM) || errors.Is(err, ebpf.ErrNotSupported) {
		t.Errorf("error %v", err)
	}
}
