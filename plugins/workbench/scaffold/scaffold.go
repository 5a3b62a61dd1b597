// Package scaffold writes the start of a policy: one source file, the SDK that
// it includes, a Makefile and the picks that it is expected to make.
//
//	files, err := scaffold.New("mine", "c")
package scaffold

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/caplance/caplance/plugins/sdk"
	"github.com/caplance/caplance/plugins/templates"
)

// library is where a language's SDK goes, by its name in plugins/sdk. The rest
// follows from the templates.
var library = map[string]map[string]string{
	"c":              {"c/caplance.h": "caplance.h"},
	"rust":           {"rust/lib.rs": "caplance.rs"},
	"assemblyscript": {"assemblyscript/caplance.ts": "caplance.ts"},
	"go": {
		"go/caplance.go": "caplance/caplance.go",
		"go/guest.go":    "caplance/guest.go",
		"go/native.go":   "caplance/native.go",
	},
	"wat": {},
}

// Languages lists what New knows, in alphabetical order.
func Languages() (out []string) {
	for l := range library {
		out = append(out, l)
	}
	slices.Sort(out)
	return out
}

// nameRule suits file names, Go module paths and shells alike.
var nameRule = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// New writes the folder name, below the working directory or where the name's
// path says, and returns the files in it, source first.
//
// Errors: a name or language that will not do, a folder that is there already.
func New(dir, language string) (files []string, err error) {
	name := filepath.Base(dir)
	switch {
	case !nameRule.MatchString(name):
		return nil, fmt.Errorf("name %q will not do: small letters, digits and hyphens, a letter first", name)
	case library[language] == nil:
		return nil, fmt.Errorf("language %q is unknown (languages: %s)", language, strings.Join(Languages(), ", "))
	}
	all, err := contents(name, language)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o755); errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("folder %s is there already: choose another name or remove it", dir)
	} else if err != nil {
		return nil, fmt.Errorf("folder cannot be made: %w", err)
	}
	for file, text := range all {
		to := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return nil, fmt.Errorf("folder cannot be made: %w", err)
		}
		if err := os.WriteFile(to, text, 0o644); err != nil {
			return nil, fmt.Errorf("file cannot be written: %w", err)
		}
		files = append(files, to)
	}
	slices.SortFunc(files, func(a, b string) int {
		source := filepath.Join(dir, name) + "."
		if x, y := strings.HasPrefix(a, source), strings.HasPrefix(b, source); x != y {
			if x {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	return files, nil
}

// contents returns the files of a new policy by their names.
func contents(name, language string) (map[string][]byte, error) {
	out := map[string][]byte{}
	var err error
	if out["vectors.json"], err = templates.Files.ReadFile("vectors.json"); err != nil {
		return nil, err
	}
	list, err := templates.Files.ReadDir(language)
	if err != nil {
		return nil, err
	}
	for _, f := range list {
		text, err := templates.Files.ReadFile(path.Join(language, f.Name()))
		if err != nil {
			return nil, err
		}
		file := strings.TrimSuffix(f.Name(), ".txt")
		if rest, ok := strings.CutPrefix(file, "policy."); ok {
			file = name + "." + rest
		}
		out[file] = bytes.ReplaceAll(text, []byte("@NAME@"), []byte(name))
	}
	for from, to := range library[language] {
		if out[to], err = sdk.Files.ReadFile(from); err != nil {
			return nil, err
		}
	}
	return out, nil
}
