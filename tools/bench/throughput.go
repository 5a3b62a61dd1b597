package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/caplance/caplance/e2e/cluster"
)

// discardPort is where the backend swallows what comes (RFC 863).
const discardPort = 9

// benchThroughput is one TCP stream from the client to the backend, by way of
// the VIP and directly, on each rung.
func benchThroughput(ctx context.Context, b *bench) error {
	for _, rung := range []string{"tc", "userspace"} {
		if err := b.rung(ctx, rung); err != nil {
			return fmt.Errorf("rung %s: %w", rung, err)
		}
	}
	return nil
}

func (b *bench) rung(ctx context.Context, rung string) (err error) {
	c, err := cluster.New(cluster.Options{Bin: b.bin, Dir: b.dir, Backends: 1, Rung: rung, Server: fmt.Sprintf(
		"[[service]]\nname = \"discard\"\nvip = %q\nprotocol = \"tcp\"\nports = [%d]\npolicy = \"round-robin\"", cluster.VIP4, discardPort)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.StartServer(ctx); err != nil {
		return err
	}
	if err := c.StartAgents(ctx); err != nil {
		return err
	}
	sink, err := newSink(c.Backends[0])
	if err != nil {
		return err
	}
	defer sink.Close()

	const metric = "one TCP stream"
	direct := b.measure("client to backend beside "+rung, metric, "Mbit/s", nil)
	vip := b.measure("client to VIP, "+rung, metric, "Mbit/s", direct)
	if err := b.streams(ctx, c, sink, metric, direct, vip); err != nil {
		return err
	}
	if err := noOffload(c.Client, "eth0"); err != nil {
		return err
	}
	const small = metric + ", MTU-size packets"
	direct = b.measure("client to backend beside "+rung, small, "Mbit/s", nil)
	vip = b.measure("client to VIP, "+rung, small, "Mbit/s", direct)
	return b.streams(ctx, c, sink, small, direct, vip)
}

// streams measures both ways in turns.
func (b *bench) streams(ctx context.Context, c *cluster.Cluster, s *sink, metric string, direct, vip *series) error {
	for i := range b.rounds {
		b.step("throughput: "+metric, i+1, b.rounds)
		for _, way := range []struct {
			*series
			to netip.Addr
		}{{direct, c.Backends[0].Data}, {vip, cluster.VIP4}} {
			rate, err := s.stream(ctx, c, way.to)
			if err := errors.Join(err, ctx.Err()); err != nil {
				return err
			}
			way.add(rate)
		}
	}
	return nil
}

// sink counts what arrives at a backend.
type sink struct {
	net.Listener
	bytes atomic.Uint64
}

func newSink(b *cluster.Backend) (*sink, error) {
	l, err := b.Listen(fmt.Sprintf("[::]:%d", discardPort))
	if err != nil {
		return nil, err
	}
	s := &sink{Listener: l}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go s.swallow(conn)
		}
	}()
	return s, nil
}

func (s *sink) swallow(conn net.Conn) {
	defer conn.Close()
	for buf := make([]byte, 1<<18); ; {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		s.bytes.Add(uint64(n))
	}
}

// stream is the rate of one connection, in Mbit/s as they arrive.
func (s *sink) stream(ctx context.Context, c *cluster.Cluster, to netip.Addr) (float64, error) {
	conn, err := c.Client.Dial(ctx, "tcp", netip.AddrPortFrom(to, discardPort).String())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	sent := make(chan error, 1)
	go func() {
		for buf := make([]byte, 1<<18); ; {
			if _, err := conn.Write(buf); err != nil {
				sent <- err
				return
			}
		}
	}()
	pause(ctx, warmUp)
	bytes, begin := s.bytes.Load(), time.Now()
	pause(ctx, window)
	rate := float64(s.bytes.Load()-bytes) * 8 / 1e6 / time.Since(begin).Seconds()
	conn.Close()
	if err := <-sent; !errors.Is(err, net.ErrClosed) {
		return 0, fmt.Errorf("stream to %v: %w", to, errors.Join(err, io.ErrUnexpectedEOF))
	}
	if rate == 0 {
		return 0, fmt.Errorf("stream to %v stands still", to)
	}
	return rate, nil
}
