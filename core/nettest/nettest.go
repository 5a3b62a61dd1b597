// Package nettest gives tests network namespaces, and states the privileges that
// they need. A test that cannot have them is skipped with the missing feature's
// name, or fails when CAPLANCE_REQUIRE_PRIVILEGED=1 is set (as in CI), so that a
// green run never hides tests that did not run. Only tests import it.
//
//	func TestAddAddr(t *testing.T) {
//		nettest.NetNS(t) // this goroutine is now alone in a fresh netns
//		…
//	}
package nettest

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Env is the environment variable that turns every skip into a failure.
const Env = "CAPLANCE_REQUIRE_PRIVILEGED"

// Missing ends the test because the machine lacks feature: a skip, or a
// failure under Env. It, Unbuilt and OwnMachine are the only places of the project
// that may skip.
func Missing(t testing.TB, feature string) {
	t.Helper()
	if os.Getenv(Env) == "1" {
		t.Fatalf("%s=1, but this machine lacks %s", Env, feature)
	}
	t.Skipf("needs %s", feature)
}

// Unbuilt ends the test because this kernel was built without feature, which no
// privilege gives back: a skip, under Env too. It is for what is tested by
// something near it as well.
func Unbuilt(t testing.TB, feature string) {
	t.Helper()
	t.Skipf("this kernel was built without %s", feature)
}

// OwnMachine demands a machine of which nothing else depends, for what no namespace
// holds back: a VM, which tools/vm says by CAPLANCE_OWN_MACHINE=1. Elsewhere the test
// is skipped, under Env too.
func OwnMachine(t testing.TB) {
	t.Helper()
	if os.Getenv("CAPLANCE_OWN_MACHINE") != "1" {
		t.Skip("needs a machine of its own: make vm")
	}
}

// Root demands the privileges to change the network: CAP_NET_ADMIN and
// CAP_SYS_ADMIN, which in practice means root.
func Root(t testing.TB) {
	t.Helper()
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		t.Fatalf("capabilities of this process: %v", err)
	}
	const need = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_SYS_ADMIN
	if data[0].Effective&need != need {
		Missing(t, "root (CAP_NET_ADMIN and CAP_SYS_ADMIN)")
	}
}
