package registry

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caplance/caplance/core/protocol"
)

// storm is many agents, each with an address and a data IP of its own, who
// reconnect at once to a registry beside hostile connections.
type storm struct {
	w    *testbed
	wg   sync.WaitGroup
	mu   sync.Mutex
	path map[netip.Addr]chan string // nonces by data IP
}

// sanityTrip is how long a datagram takes: the first one meets an unresolved
// neighbour and a busy agent.
const sanityTrip = 300 * time.Millisecond

func newStorm(t *testing.T) *storm {
	s := &storm{w: newTestbed(t), path: map[netip.Addr]chan string{}}
	s.w.r.cfg.Sanity = func(to netip.Addr, d []byte) error {
		time.AfterFunc(sanityTrip, func() {
			select {
			case s.nonces(to) <- strings.TrimPrefix(string(d), "SANITY "):
			default: // the agent has one already
			}
		})
		return nil
	}
	s.w.run()
	return s
}

func (s *storm) nonces(dataIP netip.Addr) chan string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.path[dataIP] == nil {
		s.path[dataIP] = make(chan string, 1)
	}
	return s.path[dataIP]
}

func (s *storm) dial(ctx context.Context, from string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	return d.DialContext(ctx, "tcp", s.w.r.Addr().String())
}

// agent registers until it is, as a real one does, and stays until ctx ends. It
// reports every session that broke.
func (s *storm) agent(ctx context.Context, i int, broken func()) {
	for ctx.Err() == nil {
		if s.session(ctx, i) {
			return
		}
		broken()
		sleep(ctx, rand.N(250*time.Millisecond))
	}
}

func (s *storm) session(ctx context.Context, i int) (registered bool) {
	conn, err := s.dial(ctx, fmt.Sprintf("127.1.%d.%d", i/250, 1+i%250))
	if err != nil {
		return false
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	name, dataIP := fmt.Sprintf("web%d", i), netip.AddrFrom4([4]byte{10, 1, byte(i / 250), byte(1 + i%250)})
	comm := protocol.NewTCPCommunicator(conn, time.Minute, time.Minute)
	comm.WriteLine("REGISTER " + name + " " + dataIP.String())
	lines, done := make(chan string), make(chan struct{})
	defer close(done)
	s.wg.Go(func() {
		defer close(lines)
		for line, err := comm.ReadLine(); err == nil; line, err = comm.ReadLine() {
			select {
			case lines <- line:
			case <-done:
				return
			}
		}
	})
	for {
		select {
		case nonce := <-s.nonces(dataIP):
			comm.WriteLine("SANE " + nonce)
		case line, ok := <-lines:
			if !ok {
				return ctx.Err() != nil || registered
			}
			registered = registered || strings.HasPrefix(line, "REGISTERED")
		}
	}
}

// hostile opens a connection again and again and sends what it is given.
func (s *storm) hostile(ctx context.Context, from, line string) {
	for ctx.Err() == nil {
		conn, err := s.dial(ctx, from)
		if err != nil {
			sleep(ctx, 10*time.Millisecond)
			continue
		}
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		conn.Write([]byte(line))
		conn.Read(make([]byte, 1))
		stop()
		conn.Close()
	}
}

// 500 agents are active within 5 s of a start of the balancer, none of them
// having been hung up on, whoever else keeps connections open.
func TestManyAgentsAtOnce(t *testing.T) {
	const agents = 500
	s := newStorm(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer s.wg.Wait()
	defer cancel()
	var mu sync.Mutex
	broken := 0
	for i := range 400 {
		line := ""
		if i%4 == 0 {
			line = "HELLO\n"
		}
		s.wg.Go(func() { s.hostile(ctx, fmt.Sprintf("127.2.0.%d", 1+i%8), line) })
	}
	start := time.Now()
	for i := range agents {
		s.wg.Go(func() {
			s.agent(ctx, i, func() {
				mu.Lock()
				defer mu.Unlock()
				broken++
			})
		})
	}
	active := 0
	for active < agents && time.Since(start) < 5*time.Second {
		sleep(ctx, 10*time.Millisecond)
		active = len(s.w.r.Backends())
	}
	mu.Lock()
	defer mu.Unlock()
	t.Logf("%d of %d agents registered after %s, %d sessions broke", active, agents, time.Since(start).Round(time.Millisecond), broken)
	if active < agents || broken > 0 {
		t.Errorf("%d of %d agents registered after %s, %d sessions broke", active, agents, time.Since(start).Round(time.Millisecond), broken)
	}
}
