package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/caplance/caplance/e2e/cluster"
)

// firstPort is the local one of the first socket.
const firstPort = 20000

// asker is a UDP socket that asks all the time.
type asker struct {
	pc  *net.UDPConn
	vip netip.AddrPort

	mu   sync.Mutex
	home string // the backend that answered last
	open map[string]question
}

// question is a datagram without an answer yet.
type question struct {
	t     *Tally
	began time.Time
}

var errUnanswered = errors.New("no answer")

// datagrams ends the sockets that there are, opens others and has them ask: their
// flows are spread over the backends that there are now. Their ports are the same in
// each run.
func (l *Load) datagrams() error {
	if l.endUDP != nil {
		l.endUDP()
	}
	var ctx context.Context
	ctx, l.endUDP = context.WithCancel(l.ctx)
	for i := range sockets {
		local := fmt.Sprintf("%s:%d", [2]string{"0.0.0.0", "[::]"}[i%2], firstPort+l.ports)
		l.ports++
		pc, err := l.c.Client.ListenPacket(local)
		if err != nil {
			return fmt.Errorf("load: %w", err)
		}
		a := &asker{pc: pc.(*net.UDPConn), vip: netip.AddrPortFrom(vips[i%2], cluster.UDPPort), open: map[string]question{}}
		l.wg.Go(a.hear)
		l.wg.Go(func() { l.ask(ctx, a) })
	}
	return nil
}

// ask sends datagrams until ctx ends, and takes those for lost that were not
// answered in time.
func (l *Load) ask(ctx context.Context, a *asker) {
	defer a.pc.Close()
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			a.giveUp(time.Time{})
			return
		case <-tick.C:
		}
		a.giveUp(time.Now().Add(-newTimeout))
		text := fmt.Sprint(n)
		a.mu.Lock()
		a.open[text] = question{l.begin(), time.Now()}
		a.mu.Unlock()
		_, _ = a.pc.WriteToUDPAddrPort([]byte(text), a.vip) // an error of an earlier one; it is not answered
	}
}

// giveUp ends the questions that began before a time, or all, uncounted.
func (a *asker) giveUp(before time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for text, q := range a.open {
		switch {
		case before.IsZero():
		case q.began.Before(before):
			q.t.datagram(q.began, errUnanswered, false)
		default:
			continue
		}
		q.t.pending.Done()
		delete(a.open, text)
	}
}

// hear takes answers until the socket is closed.
func (a *asker) hear() {
	buf := make([]byte, 2048)
	for {
		n, _, err := a.pc.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		name, text, ok := strings.Cut(string(buf[:n]), " ")
		if err == nil && ok {
			a.answer(name, text)
		}
	}
}

func (a *asker) answer(name, text string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	q, ok := a.open[text]
	if !ok {
		return // too late
	}
	delete(a.open, text)
	q.t.datagram(q.began, nil, a.home != "" && a.home != name)
	a.home = name
	q.t.pending.Done()
}
