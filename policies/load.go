package policies

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// MaxBytes is the size of the largest file that Load reads, the default of
// [policy] max_module_bytes.
const MaxBytes = 16 << 20

// Errors of Load and LoadWithin.
var (
	ErrUnknown  = errors.New("policy is unknown")   // neither bundled nor a path
	ErrNoFile   = errors.New("not a regular file")  // a directory, FIFO, device or socket
	ErrTooLarge = errors.New("policy is too large") // the file has more bytes than allowed
)

// Load reads a policy of up to MaxBytes; see LoadWithin.
func Load(spec string) (name string, wasm []byte, err error) { return LoadWithin(spec, MaxBytes) }

// LoadWithin reads a policy: a bundled one by its name, or a file, which spec
// names when it has a slash in it or ends in .wasm. A file is a regular one, or
// a symlink to one, of at most a number of bytes. The name returned is the
// bundled one or the file's, without directory and suffix. The bytes are not
// checked. It does not block on what is no file.
//
// Errors: ErrUnknown, ErrNoFile, ErrTooLarge, or what the file system says.
func LoadWithin(spec string, most int) (name string, wasm []byte, err error) {
	if !Bundled(spec) {
		wasm, err := readFile(spec, most)
		if err != nil {
			return "", nil, fmt.Errorf("policy file cannot be read: %w", err)
		}
		return strings.TrimSuffix(filepath.Base(spec), suffix), wasm, nil
	}
	wasm, err = bundled.ReadFile(spec + suffix)
	if err != nil {
		return "", nil, fmt.Errorf("%w: %q (bundled: %s; a file needs a path or the suffix %s)",
			ErrUnknown, spec, strings.Join(Names(), ", "), suffix)
	}
	return spec, wasm, nil
}

// Bundled reports whether a specification means a bundled policy, not a file.
func Bundled(spec string) bool {
	return !strings.ContainsRune(spec, '/') && !strings.HasSuffix(spec, suffix)
}

func readFile(path string, most int) ([]byte, error) {
	// Looking first spares devices that do something when they are opened; without
	// O_NONBLOCK a FIFO that took the file's place since would block.
	info, err := os.Stat(path)
	if err := regular(path, info, err); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err = f.Stat()
	if err := regular(path, info, err); err != nil {
		return nil, err
	}
	return readWithin(f, path, most)
}

// regular returns the error of a stat, or one that says what is there instead of
// a regular file.
func regular(path string, info os.FileInfo, err error) error {
	if err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s: %w, %v (copy the module into one)", path, ErrNoFile, info.Mode())
	}
	return err
}

// readWithin reads no more than tells that there is too much.
func readWithin(r io.Reader, path string, most int) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, int64(most)+1))
	if err == nil && len(data) > most {
		err = fmt.Errorf("%s: %w: more than %d bytes (a larger one needs [policy] max_module_bytes)", path, ErrTooLarge, most)
	}
	if err != nil {
		return nil, err
	}
	return data, nil
}
