// Package policies holds the bundled scheduling policies: one C source and
// the .wasm built from it each, embedded, so that a user needs no compiler.
// tools/policies/build.sh rebuilds them.
//
//	name, wasm, err := policies.Load("round-robin")
//	name, wasm, err := policies.Load("/etc/caplance/mine.wasm")
package policies

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

//go:embed *.wasm
var bundled embed.FS

const suffix = ".wasm"

// ErrUnknown is a name that is neither bundled nor a path.
var ErrUnknown = errors.New("policy is unknown")

// Names lists the bundled policies in alphabetical order.
func Names() []string {
	files, err := fs.Glob(bundled, "*"+suffix)
	if err != nil {
		panic(err) // the pattern is wrong
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(f, suffix)
	}
	return files
}

// Load reads a policy: a bundled one by its name, or a file, which spec names
// when it has a slash in it or ends in .wasm. The name returned is the bundled
// one or the file's, without directory and suffix. The bytes are not checked.
//
// Errors: ErrUnknown, or what the file system says.
func Load(spec string) (name string, wasm []byte, err error) {
	if strings.ContainsRune(spec, '/') || strings.HasSuffix(spec, suffix) {
		wasm, err := os.ReadFile(spec)
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
