package control

import (
	"context"
	"net"
	"os/user"
	"strconv"

	"github.com/caplance/caplance/core/api"
)

// callerKey is under which the context of a connection has its caller.
type callerKey struct{}

// withCaller notes who has connected; conn is one of limiter's.
func withCaller(ctx context.Context, conn net.Conn) context.Context {
	if c, ok := conn.(*clientConn); ok {
		return context.WithValue(ctx, callerKey{}, c.caller)
	}
	return ctx
}

// callerOf returns who asks; the zero value may do nothing.
func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// named returns a caller with the user's name.
func (c *caller) named() api.Caller {
	return api.Caller{UID: c.Uid, GID: c.Gid, PID: c.Pid, User: userName(c.Uid)}
}

// userName returns a user's name, or the number of one without.
func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}
