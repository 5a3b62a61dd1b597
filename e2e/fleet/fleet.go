// Package fleet is many agents on one host, without their machines: they register,
// prove their data path and send heartbeats, as many sessions of one process.
//
//	f, err := fleet.New(host, fleet.Options{Balancer: lb, Addr: func(i int) netip.Addr { … }, Agents: 500})
//	agents := f.Add(services...)
//	err = f.Connect(ctx, agents)
//	err = f.Await(ctx, len(agents))
//	f.HangUp(agents)
//	f.Close()
package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caplance/caplance/core/protocol"
	"github.com/caplance/caplance/e2e/topology"
	"golang.org/x/sys/unix"
)

// Options are what a fleet is made with.
type Options struct {
	Balancer netip.AddrPort         // where the registry listens
	Agents   int                    // at most
	Addr     func(i int) netip.Addr // data IP of each; the host gets it
	Prefix   string                 // of the names, before the number; default b

	// Secure proves a key at a connection; nil: the balancer asks for none.
	Secure func(net.Conn) (net.Conn, error)
}

// Fleet is many agents on one host, each with a data IP of its own. They speak
// the protocol as an agent does and set nothing up.
type Fleet struct {
	Options
	host   *topology.Host
	tunnel *net.UDPConn // takes every agent's sanity datagrams

	mu      sync.Mutex
	agents  []*Agent
	byAddr  map[netip.Addr]*Agent
	active  atomic.Int64
	changed chan struct{} // holds one: active may be another
	failed  chan error    // holds one
	wg      sync.WaitGroup
}

// New gives a host the data IPs of all agents and the socket that their sanity
// datagrams come to.
func New(h *topology.Host, o Options) (_ *Fleet, err error) {
	f := &Fleet{
		Options: o, host: h, byAddr: map[netip.Addr]*Agent{}, changed: make(chan struct{}, 1), failed: make(chan error, 1),
	}
	for i := range o.Agents {
		if err := h.AddAddr("eth0", netip.PrefixFrom(o.Addr(i), 32)); err != nil {
			return nil, err
		}
	}
	c, err := h.ListenPacket("0.0.0.0:1337")
	if err != nil {
		return nil, err
	}
	f.tunnel = c.(*net.UDPConn)
	if err := tellDestination(f.tunnel); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	f.wg.Go(f.receive)
	return f, nil
}

// tellDestination has a socket tell to which address each datagram was sent.
func tellDestination(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	outer := raw.Control(func(fd uintptr) {
		err = errors.Join(unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20))
	})
	return errors.Join(outer, err)
}

// receive hands datagrams to their agents until the socket is closed: those that make sure
// of a backend, and those that prove its path from then on.
func (f *Fleet) receive() {
	buf, oob := make([]byte, 2048), make([]byte, 128)
	for {
		n, oobn, _, _, err := f.tunnel.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			return
		}
		to, ok := destination(oob[:oobn])
		if !ok {
			continue
		}
		f.mu.Lock()
		a := f.byAddr[to]
		f.mu.Unlock()
		if a == nil {
			continue
		}
		if nonce, is := strings.CutPrefix(string(buf[:n]), "SANITY "); is {
			a.prove(nonce)
		} else if padded, is := strings.CutPrefix(string(buf[:n]), protocol.ProofPrefix); is {
			nonce, _, _ := strings.Cut(padded, " ")
			a.arrived(nonce)
		}
	}
}

// destination returns the address in a struct in_pktinfo.
func destination(oob []byte) (netip.Addr, bool) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(msgs) == 0 || len(msgs[0].Data) < unix.SizeofInet4Pktinfo {
		return netip.Addr{}, false
	}
	return netip.AddrFrom4([4]byte(msgs[0].Data[8:12])), true // ipi_addr
}

// Add adds an agent for each list of services; they do not connect yet.
func (f *Fleet) Add(services ...[]string) (added []*Agent) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, list := range services {
		i := len(f.agents)
		a := &Agent{f: f, Name: fmt.Sprintf("%s%d", cmp.Or(f.Prefix, "b"), i), addr: f.Addr(i), Services: list, nonces: make(chan string, 4), proofs: make(chan arrival, protocol.MaxEchoes)}
		f.agents, added = append(f.agents, a), append(added, a)
		f.byAddr[a.addr] = a
	}
	return added
}

// All returns the agents that were added.
func (f *Fleet) All() []*Agent { return f.agents }

// Connect connects agents one after the other, as fast as that goes. None waits
// for the answer to another.
func (f *Fleet) Connect(ctx context.Context, agents []*Agent) error {
	return f.host.Do(func() error {
		for _, a := range agents {
			d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(a.addr, 0)), Timeout: 10 * time.Second}
			conn, err := d.DialContext(ctx, "tcp", f.Balancer.String())
			if err != nil {
				return err
			}
			a.start(conn)
		}
		return nil
	})
}

// HangUp breaks the agents' connections and waits until their sessions are over.
func (f *Fleet) HangUp(agents []*Agent) {
	for _, a := range agents {
		a.hangUp()
	}
	for _, a := range agents {
		<-a.done
	}
}

// Await waits until so many agents are active.
func (f *Fleet) Await(ctx context.Context, n int) error {
	for f.active.Load() != int64(n) {
		select {
		case <-f.changed:
		case err := <-f.failed:
			return err
		case <-ctx.Done():
			return fmt.Errorf("%d of %d agents are active: %w", f.active.Load(), n, ctx.Err())
		}
	}
	return nil
}

func (f *Fleet) count(n int64) {
	f.active.Add(n)
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

func (f *Fleet) fail(err error) {
	select {
	case f.failed <- err:
	default:
	}
}

// Close ends all agents.
func (f *Fleet) Close() {
	for _, a := range f.agents {
		a.hangUp()
	}
	f.tunnel.Close()
	f.wg.Wait()
}
