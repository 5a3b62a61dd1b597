package ruleset

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Watch calls changed after every change of the ruleset of the network
// namespace, whoever made it, and once at the beginning, until ctx ends, which
// is no error. changed must not block. Verify after it is cheap: it asks for
// the ruleset's generation first.
func Watch(ctx context.Context, changed func()) error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("nftables events: %w", err)
	}
	defer c.Close()
	if err := errors.Join(c.SetReadBuffer(receiveBuffer), c.JoinGroup(unix.NFNLGRP_NFTABLES)); err != nil {
		return fmt.Errorf("nftables events: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })()
	changed()
	for {
		msgs, err := c.Receive()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // events were lost
			changed()
		case err != nil:
			return fmt.Errorf("nftables events: %w", err)
		case hasGeneration(msgs):
			changed()
		}
	}
}

// hasGeneration reports whether a change is complete: each ends with the new
// generation.
func hasGeneration(msgs []netlink.Message) bool {
	for _, m := range msgs {
		if m.Header.Type == netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN) {
			return true
		}
	}
	return false
}
