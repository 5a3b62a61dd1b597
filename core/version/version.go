// Package version says which Caplance a program is, as its build recorded it: the last
// tag of the repository and the commits since, and the commit (go version -m shows more).
package version

import "runtime/debug"

// String returns the version and the commit, like "v0.2.0 4d1f…".
func String() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	out := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			out += " " + s.Value
		}
	}
	return out
}
