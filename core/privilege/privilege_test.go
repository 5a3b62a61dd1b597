package privilege

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core/nettest"
)

// childEnv has this program give up what it has.
const childEnv = "PRIVILEGE_TEST_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(childEnv) {
	case "":
		os.Exit(m.Run())
	case "drop":
		child()
	case "grandchild":
		fmt.Printf("grandchild %+v\n", Held())
	}
}

// child gives up all but two capabilities while threads run, and says what every
// thread has then, what it can still do, and what its own child has.
func child() {
	var started, done sync.WaitGroup
	release := make(chan struct{})
	for range 8 {
		started.Add(1)
		done.Go(func() {
			runtime.LockOSThread()
			started.Done()
			<-release
		})
	}
	started.Wait()
	err := Drop([]Need{{NetAdmin, ""}, {NetBindService, ""}})
	if errors.Is(err, ErrCgo) {
		fmt.Println("cgo")
		return
	}
	fmt.Println("err", err)
	tasks, _ := filepath.Glob("/proc/self/task/*/status")
	for _, task := range tasks {
		data, err := os.ReadFile(task)
		if err == nil {
			fmt.Printf("thread %+v\n", parse(string(data)))
		}
	}
	close(release)
	done.Wait()
	l, err := net.Listen("tcp", "127.0.0.1:1")
	fmt.Println("bind", err)
	if err == nil {
		l.Close()
	}
	_, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_UDP)
	fmt.Println("raw", err)
	fmt.Println("mount", unix.Mount("none", "/", "tmpfs", 0, ""))
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"=grandchild")
	out, err := cmd.CombinedOutput()
	fmt.Printf("%s", out)
	fmt.Println("exec", err)
	confined()
}

// confined gives up files, and says what can still be done with some.
func confined() {
	dir, err := os.MkdirTemp("", "landlock")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir) // fails, the test does it
	fmt.Println("dir", dir)
	for _, d := range []string{"read", "write", "other"} {
		err = errors.Join(err, os.Mkdir(filepath.Join(dir, d), 0o755), os.WriteFile(filepath.Join(dir, d, "file"), nil, 0o644))
	}
	err = errors.Join(err, Restrict([]string{"/proc", filepath.Join(dir, "read"), filepath.Join(dir, "none")}, []string{filepath.Join(dir, "write"), "/dev/null"}, nil))
	if errors.Is(err, ErrNoLandlock) {
		fmt.Println("no landlock")
		return
	}
	fmt.Println("restricted", err, Held().Confined)
	for _, d := range []string{"read", "write", "other"} {
		_, readErr := os.ReadFile(filepath.Join(dir, d, "file"))
		file := filepath.Join(dir, d, "new")
		fmt.Println(d, errors.Is(readErr, fs.ErrPermission), errors.Is(os.WriteFile(file, nil, 0o644), fs.ErrPermission), errors.Is(os.Rename(filepath.Join(dir, d, "file"), filepath.Join(dir, d, "renamed")), fs.ErrPermission))
	}
	done := make(chan bool) // another thread
	go func() {
		runtime.LockOSThread()
		_, err := os.ReadFile(filepath.Join(dir, "other", "file"))
		done <- errors.Is(err, fs.ErrPermission)
	}()
	fmt.Println("another thread", <-done)
}

// Every thread and the children have what is kept and nothing else.
func TestDrop(t *testing.T) {
	nettest.Root(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"=drop")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if lines[0] == "cgo" {
		t.Log("built with cgo: refused, as it has to be")
		return
	}
	const kept = "{Capabilities:[CAP_NET_BIND_SERVICE CAP_NET_ADMIN] Bounding:[CAP_NET_BIND_SERVICE CAP_NET_ADMIN] NoNewPrivs:true Confined:false}"
	threads := 0
	for _, line := range lines {
		if rest, ok := strings.CutPrefix(line, "thread "); ok {
			if threads++; rest != kept {
				t.Error(line)
			}
		}
	}
	if threads < 8 {
		t.Errorf("%d threads prove little", threads)
	}
	landlock := []string{"restricted <nil> true", "read false true true", "write false false false", "other true true true", "another thread true"}
	if slices.Contains(lines, "no landlock") {
		landlock = nil
	}
	for _, line := range lines {
		if dir, ok := strings.CutPrefix(line, "dir "); ok {
			defer os.RemoveAll(dir)
		}
	}
	for _, want := range append(landlock, "err <nil>", "bind <nil>", "raw operation not permitted", "mount operation not permitted", "grandchild "+kept, "exec <nil>") {
		if !slices.Contains(lines, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func TestForeign(t *testing.T) {
	nettest.Root(t)
	dir := t.TempDir()
	mine, theirs, everybodys := filepath.Join(dir, "mine"), filepath.Join(dir, "theirs"), filepath.Join(dir, "everybodys")
	for _, p := range []string{mine, theirs, everybodys} {
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chown(theirs, 61000, -1), os.Chown(everybodys, 61000, -1), os.Chmod(everybodys, 0o666)); err != nil {
		t.Fatal(err)
	}
	if got := Foreign("", filepath.Join(dir, "none"), mine, everybodys); got != "" {
		t.Errorf("%s is foreign", got)
	}
	if got := Foreign(mine, theirs); got != theirs {
		t.Errorf("%q is foreign", got)
	}
}
