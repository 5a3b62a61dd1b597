package topology

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// Binaries returns the directory of the built programs: CAPLANCE_BIN, or one that it
// builds them into from the root of the sources. done removes that.
func Binaries(root string) (dir string, done func(), err error) {
	if dir = os.Getenv("CAPLANCE_BIN"); dir != "" {
		return dir, func() {}, nil
	}
	if dir, err = os.MkdirTemp("", "caplance-bin"); err != nil {
		return "", nil, err
	}
	build := exec.Command("go", "build", "-o", dir, "./cmd/...")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if said, err := build.CombinedOutput(); err != nil {
		return "", nil, errors.Join(fmt.Errorf("build: %w\n%s", err, said), os.RemoveAll(dir))
	}
	return dir, func() { _ = os.RemoveAll(dir) }, nil
}
