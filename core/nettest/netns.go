package nettest

import (
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/caplance/caplance/core/nettest/slow"
)

// NetNS moves the calling goroutine into a fresh network namespace with lo up
// and returns its handle; the test's cleanup brings it back. The goroutine is
// locked to its thread; goroutines that it starts run in the namespace the
// process came from. Code under test that opens sockets in goroutines of its
// own needs OwnNetNS instead.
func NetNS(t testing.TB) netns.NsHandle {
	t.Helper()
	Root(t)
	runtime.LockOSThread()
	before, err := netns.Get()
	if err != nil {
		t.Fatalf("current netns: %v", err)
	}
	ns, err := netns.New()
	if err != nil {
		t.Fatalf("new netns: %v", err)
	}
	t.Cleanup(func() {
		defer before.Close()
		defer ns.Close()
		if err := netns.Set(before); err != nil {
			// The thread stays locked and so dies with its goroutine.
			t.Errorf("return to the first netns: %v", err)
			return
		}
		runtime.UnlockOSThread()
	})
	loopbackUp(t)
	return ns
}

// ownNetNS marks the child process that OwnNetNS started.
const ownNetNS = "CAPLANCE_TEST_OWN_NETNS"

// OwnNetNS runs the calling test once more in a child process whose every
// thread lives in a fresh network namespace with lo up. In the child it returns
// true and the test goes on; in the parent it reports the child's outcome and
// returns false, and the test returns.
//
//	if !nettest.OwnNetNS(t) {
//		return
//	}
func OwnNetNS(t *testing.T) bool {
	t.Helper()
	Root(t)
	if os.Getenv(ownNetNS) == t.Name() {
		loopbackUp(t)
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0],
		"-test.run=^"+regexp.QuoteMeta(t.Name())+"$", "-test.v", "-test.count=1", "-test.timeout="+slow.Time(2*time.Minute).String())
	cmd.Env = append(os.Environ(), ownNetNS+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // Pdeathsig is tied to the thread that forks
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("in its own netns: %v\n%s", err, out)
	} else {
		t.Logf("in its own netns:\n%s", out)
	}
	return false
}

func loopbackUp(t testing.TB) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatalf("lo up: %v", err)
	}
}
