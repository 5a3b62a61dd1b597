package topology

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core/nettest"
)

// role is what a copy of this test's process does.
const role = "CAPLANCE_TEST_TOPOLOGY"

// A network of a killed process must not be in the way of the next one, also
// when somebody used ip netns in between: that binds the directory of names to
// itself unless it is a shared mount already.
func TestKilledNetworkGivesWay(t *testing.T) {
	nettest.Root(t)
	if _, err := exec.LookPath("ip"); err != nil {
		nettest.Missing(t, "iproute2")
	}
	switch os.Getenv(role) {
	case "victim":
		victim(t)
	case "next":
		next(t)
	default: // names of its own, in a mount namespace of its own
		cmd := again(t, "next")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
}

func again(t *testing.T, as string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), role+"="+as)
	return cmd
}

// victim makes a network and is killed.
func victim(t *testing.T) {
	lan, err := New("kill")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lan.Switch("sw"); err != nil {
		t.Fatal(err)
	}
	os.Stdout.WriteString("up\n")
	select {}
}

func next(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""))
	must(unix.Mount("run", "/run", "tmpfs", 0, ""))
	killed := kill(t)
	ip(t, "netns", "add", "x")
	lan, err := New("kill")
	must(err)
	if left := lan.Leftovers(); len(left) > 0 {
		t.Errorf("leftovers: %v", left)
	}
	h, err := lan.Host("sw")
	must(err)
	if names := named(); len(names) != 2 || names[0] != h.NS && names[1] != h.NS || h.NS == killed {
		t.Errorf("names %q, of them ours %s", names, h.NS)
	}
	ip(t, "netns", "exec", h.NS, "true")
	must(lan.Close())
	ip(t, "netns", "del", "x")
	if names := named(); len(names) > 0 {
		t.Errorf("names are left: %q", names)
	}
}

// kill runs a victim to its end and returns the name of its namespace.
func kill(t *testing.T) string {
	cmd := again(t, "victim")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var text string
	for s := bufio.NewScanner(out); s.Scan() && s.Text() != "up"; {
		text += s.Text() + "\n"
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	names := named()
	if len(names) != 1 {
		t.Fatalf("this proves nothing: the killed process left %q\n%s", names, text)
	}
	return names[0]
}

func named() (names []string) {
	paths, _ := filepath.Glob(namesDir + "/*")
	for _, p := range paths {
		names = append(names, filepath.Base(p))
	}
	return names
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %v: %v\n%s", args, err, out)
	}
}

// A leftover that cannot be removed is told, and in nobody's way; a name of a
// process that lives is left alone.
func TestLeftoversAreWarnings(t *testing.T) {
	nettest.Root(t)
	if err := shareNames(); err != nil {
		t.Fatal(err)
	}
	const gone = "4194399" // above the largest process id, 1<<22
	for _, dir := range []string{"left" + gone + "-x/sub", "left1-x"} {
		if err := os.MkdirAll(filepath.Join(namesDir, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		os.RemoveAll(filepath.Join(namesDir, "left"+gone+"-x"))
		os.RemoveAll(filepath.Join(namesDir, "left1-x"))
	})
	lan, err := New("left")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(lan.Leftovers()); n != 1 {
		t.Errorf("leftovers: %v", lan.Leftovers())
	}
	if err := lan.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(namesDir, "left1-x")); err != nil {
		t.Error(err)
	}
}

// A host that cannot be made leaves the thread where it was.
func TestThreadStaysInItsNamespace(t *testing.T) {
	nettest.Root(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	lan, err := New("stay")
	if err != nil {
		t.Fatal(err)
	}
	defer lan.Close()
	if _, err := lan.Host("a"); err != nil {
		t.Fatal(err)
	}
	if _, err := lan.Host("a"); err == nil {
		t.Error("two hosts have one name")
	}
	if after, err := os.Readlink("/proc/thread-self/ns/net"); err != nil || after != before {
		t.Errorf("from %s to %s, %v", before, after, err)
	}
}

// A veth takes what XDP sends from the other end.
func TestPassXDP(t *testing.T) {
	nettest.Root(t)
	lan, err := New("pass")
	if err != nil {
		t.Fatal(err)
	}
	defer lan.Close()
	sw, err := lan.Switch("sw")
	if err != nil {
		t.Fatal(err)
	}
	h, err := lan.Host("h")
	if err != nil {
		t.Fatal(err)
	}
	if err := sw.Attach(h, "eth0"); err != nil {
		t.Fatal(err)
	}
	prog, err := sw.PassXDP(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := prog.Close(); err != nil {
		t.Error(err)
	}
}
