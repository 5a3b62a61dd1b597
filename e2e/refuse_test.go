package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/e2e/cluster"
)

// connect opens and closes a connection of the line protocol, and returns how that
// ended and how long it took.
func connect(c *cluster.Cluster, vip netip.Addr, within time.Duration) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), slow.Time(within))
	defer cancel()
	begin := time.Now()
	conn, err := c.Client.Dial(ctx, "tcp", netip.AddrPortFrom(vip, cluster.LinePort).String())
	if err == nil {
		conn.Close()
	}
	return time.Since(begin), err
}

// askConnected sends a datagram from a connected socket, which hears of ICMP errors.
func askConnected(c *cluster.Cluster, vip netip.Addr, within time.Duration) error {
	conn, err := c.Client.Dial(context.Background(), "udp", netip.AddrPortFrom(vip, cluster.UDPPort).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(slow.Time(within))); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("x")); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 100))
	return err
}

// refusedAtOnce checks that TCP and UDP hear that nobody is there.
func refusedAtOnce(t *testing.T, c *cluster.Cluster, when string) {
	t.Helper()
	for _, vip := range vips {
		for range 10 {
			took, err := connect(c, vip, 2*time.Second)
			if !errors.Is(err, syscall.ECONNREFUSED) || took > slow.Time(500*time.Millisecond) {
				t.Errorf("%s: connect to %v: %v after %s", when, vip, err, took)
			}
			if err := askConnected(c, vip, time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%s: datagram to %v: %v", when, vip, err)
			}
		}
	}
}

// While no backend is eligible clients are refused at once; established
// connections of draining ones go on; with no_backend = "drop" clients hear
// nothing. The policies are one that is asked and one with a table in the kernel.
func TestNoBackend(t *testing.T) {
	for _, policy := range []string{"round-robin", "maglev"} {
		t.Run(policy, func(t *testing.T) {
			c := start(t, cluster.Options{Backends: 2, Policy: policy})
			h := hold(t, c, 20)
			for _, b := range c.Backends {
				_, err := b.Call("Drain")
				must(t, err)
			}
			must(t, c.AwaitActive(t.Context(), 0))
			await(t, "the kernel's table to follow", func() error {
				if _, err := connect(c, cluster.VIP4, time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
					return fmt.Errorf("connect: %v", err)
				}
				return nil
			})
			refusedAtOnce(t, c, "all drain")
			h.check(t, "all drain")
			for _, b := range c.Backends {
				_, err := b.Call("Deregister")
				must(t, err)
			}
			refusedAtOnce(t, c, "all are gone")
			for _, l := range h.lines {
				if err := l.ping(time.Second); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
					t.Errorf("connection at %s, which is gone: %v", l.backend, err)
				}
			}
			if out, code := reloadWith(t, c, func(toml string) string {
				return strings.ReplaceAll(toml, "protocol =", "no_backend = \"drop\"\nprotocol =")
			}); code != 0 {
				t.Fatal(out)
			}
			for _, vip := range vips {
				if took, err := connect(c, vip, 500*time.Millisecond); !isTimeout(err) {
					t.Errorf("no_backend = drop: connect to %v: %v after %s", vip, err, took)
				}
				if err := askConnected(c, vip, 300*time.Millisecond); !isTimeout(err) {
					t.Errorf("no_backend = drop: datagram to %v: %v", vip, err)
				}
			}
			for _, b := range c.Backends {
				_, err := b.Call("Resume")
				must(t, err)
			}
			must(t, c.AwaitActive(t.Context(), 2))
			newWorks(t, c, "all are back", vips...)
		})
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// A backend whose session broke may be back any moment, and so may all of them
// after a start of the balancer: nobody is refused meanwhile.
func TestNobodyIsRefusedTooSoon(t *testing.T) {
	c := start(t, cluster.Options{Backends: 1, Timeout: "10s"})
	h := hold(t, c, 4)
	b := c.Backends[0]
	patient := func(what string, back func() error) {
		t.Helper()
		type outcome struct {
			took time.Duration
			err  error
		}
		done := make(chan outcome, len(vips))
		for _, vip := range vips {
			go func() {
				took, err := connect(c, vip, 10*time.Second)
				done <- outcome{took, err}
			}()
		}
		<-time.After(200 * time.Millisecond)
		must(t, back())
		for range vips {
			if got := <-done; got.err != nil {
				t.Errorf("%s: a connection that began meanwhile: %v after %s", what, got.err, got.took)
			}
		}
	}
	b.Agent.Kill()
	awaitState(t, c, b.Name, "lost")
	patient("the agent is gone", func() error { return b.StartAgent(t.Context()) })
	h.check(t, "the agent is back")
	must(t, c.StopServer())
	must(t, b.StopAgent())
	must(t, c.StartServer(t.Context()))
	patient("the balancer has started", func() error { return b.StartAgent(t.Context()) })
	await(t, fmt.Sprint(b.Name), func() error { return c.AwaitActive(t.Context(), 1) })
}
