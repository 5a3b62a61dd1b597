package config

import (
	"errors"
	"fmt"
	"path/filepath"
)

// Sandbox is the [sandbox] table of the server's and the agent's configuration: what
// the process may do once it has started.
type Sandbox struct {
	Capabilities string   `toml:"capabilities"` // least, or all that it was started with
	Paths        []string `toml:"paths"`        // trees that may be read beside its own files; none: every one
}

// DefaultSandbox returns what holds where the file says nothing.
func DefaultSandbox() Sandbox { return Sandbox{Capabilities: "least", Paths: []string{}} }

// Least reports whether capabilities that are not needed are given up.
func (s *Sandbox) Least() bool { return s.Capabilities == "least" }

// Check validates the table that stands in doc under key.
func (s *Sandbox) Check(doc *Document, key string) error {
	var errs []error
	if s.Capabilities != "least" && s.Capabilities != "all" {
		errs = append(errs, doc.Errorf(join(key, "capabilities"), "%q must be least or all", s.Capabilities))
	}
	for i, p := range s.Paths {
		if !filepath.IsAbs(p) {
			errs = append(errs, doc.Errorf(fmt.Sprintf("%s[%d]", join(key, "paths"), i), "%q is not an absolute path", p))
		}
	}
	return errors.Join(errs...)
}
