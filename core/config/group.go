package config

import (
	"fmt"
	"os/user"
	"strconv"
)

// The connections of a control socket at once.
const (
	DefaultClients = 64
	MaxClients     = 4096
)

// Group returns the number of a group of users, which may be given by its name or
// its number.
func Group(name string) (gid uint32, err error) {
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		return uint32(n), nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("%q is no group of this machine, by name or number (getent group lists them)", name)
	}
	n, err := strconv.ParseUint(g.Gid, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("group %q has no number: %w", name, err)
	}
	return uint32(n), nil
}

// group checks that a group is there; "" is none.
func (v *validator) group(key, name string) string {
	if name != "" {
		if _, err := Group(name); err != nil {
			v.failf(key, "%w", err)
		}
	}
	return name
}
