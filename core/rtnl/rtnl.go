// Package rtnl makes rtnetlink dumps again that a change of the kernel's tables
// has interrupted: their results may be incomplete.
//
//	links, err := rtnl.Dump(netlink.LinkList)
package rtnl

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
)

// tries is how often a dump is made; on a machine whose tables change that
// fast all the time there is no complete answer.
const tries = 20

// Dump calls list until its answer is complete. An error that is no
// interruption is returned as it is.
func Dump[T any](list func() ([]T, error)) ([]T, error) {
	for range tries {
		out, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	return nil, fmt.Errorf("the tables change faster than they can be read, %d times: %w", tries, netlink.ErrDumpInterrupted)
}
