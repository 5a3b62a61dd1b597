package load

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/caplance/caplance/e2e/cluster"
)

// line is a connection of the line protocol.
type line struct {
	*net.TCPConn
	r       *bufio.Reader
	client  netip.AddrPort
	backend *cluster.Backend
}

// open connects and reads the backend's name.
func (l *Load) open(vip netip.Addr) (*line, error) {
	end := time.Now().Add(newTimeout)
	ctx, cancel := context.WithDeadline(l.ctx, end)
	defer cancel()
	conn, err := l.c.Client.Dial(ctx, "tcp", netip.AddrPortFrom(vip, cluster.LinePort).String())
	if err != nil {
		return nil, err
	}
	x := &line{TCPConn: conn.(*net.TCPConn), r: bufio.NewReader(conn), client: conn.LocalAddr().(*net.TCPAddr).AddrPort()}
	x.SetDeadline(end)
	name, err := x.r.ReadString('\n')
	for _, b := range l.c.Backends {
		if b.Name == strings.TrimSpace(name) {
			x.backend = b
		}
	}
	if err == nil && x.backend == nil {
		err = fmt.Errorf("%q is no backend", name)
	}
	if err != nil {
		x.Close()
		return nil, err
	}
	return x, nil
}

// ping sends a line and reads it back.
func (x *line) ping(timeout time.Duration) error { return x.say("ping\n", timeout) }

func (x *line) say(what string, timeout time.Duration) error {
	x.SetDeadline(time.Now().Add(timeout))
	if _, err := io.WriteString(x, what); err != nil {
		return err
	}
	got, err := x.r.ReadString('\n')
	if err == nil && got != what {
		err = fmt.Errorf("echo: %q", got)
	}
	return err
}

// halfClose has the backend hold its last word, and says ours.
func (x *line) halfClose() error {
	if err := x.say("held\n", oldTimeout); err != nil {
		return err
	}
	return x.CloseWrite()
}

// last reads the last word of a half-closed connection, and its end.
func (x *line) last(timeout time.Duration) error {
	defer x.Close()
	x.SetDeadline(time.Now().Add(timeout))
	got, err := x.r.ReadString('\n')
	if err != nil || got != "late\n" {
		return fmt.Errorf("%q: %w", got, err)
	}
	return x.over()
}

// over waits for the backend's FIN.
func (x *line) over() error {
	if got, err := x.r.ReadString('\n'); err != io.EOF || got != "" {
		return fmt.Errorf("%q, %w instead of the end", got, err)
	}
	return nil
}

// request is one HTTP request on a connection of its own.
func (l *Load) request(n int, t *Tally) {
	began := time.Now()
	resp, err := l.http.Get(fmt.Sprintf("http://%s/", netip.AddrPortFrom(vips[n%2], cluster.HTTPPort)))
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	if l.ctx.Err() == nil {
		t.opened("http", began, err)
	}
}

// connection is one from its SYN to an orderly end.
func (l *Load) connection(n int, t *Tally) {
	began := time.Now()
	x, err := l.open(vips[n%2])
	if err == nil {
		defer x.Close()
		err = x.ping(time.Until(began.Add(newTimeout)))
	}
	if err == nil {
		if err = x.CloseWrite(); err == nil {
			err = x.over()
		}
	}
	if l.ctx.Err() == nil {
		t.opened("tcp", began, err)
	}
}

// talk pings a busy connection until it breaks.
func (l *Load) talk(x *line) {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for l.ctx.Err() == nil {
		t, began := l.begin(), time.Now()
		err := x.ping(oldTimeout)
		switch {
		case l.ctx.Err() != nil:
		case err != nil:
			t.lose(x, "busy", err, began)
			l.broken.Store(x, true)
			x.Close()
		default:
			t.answered(began)
		}
		t.pending.Done()
		if err != nil {
			return
		}
		<-tick.C
	}
}
