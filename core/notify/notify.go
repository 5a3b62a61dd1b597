// Package notify reports a service's state to the service manager by the
// protocol of sd_notify(3). Without one, that is without NOTIFY_SOCKET in the
// environment, it does nothing.
//
//	notify.Ready()     // packets flow
//	notify.Reloading() // … until the next Ready
//	notify.Stopping()
//	go notify.Watchdog(alive)(ctx)
package notify

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Ready reports that the start, or a reload, is over.
func Ready() error { return send("READY=1") }

// Stopping reports that the service is about to end.
func Stopping() error { return send("STOPPING=1") }

// Reloading reports that a reload has begun; Ready ends it. The time, which
// Type=notify-reload demands, is that of CLOCK_MONOTONIC in µs.
func Reloading() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("service manager: clock: %w", err)
	}
	return send(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000))
}

// send writes assignments, one a line, in one datagram. A path that starts with
// "@" is an abstract socket, in package net as in sd_notify.
func send(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("service manager: %w", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("service manager: %w", err)
	}
	return nil
}
