package control

import (
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxStrangers is how many connections of those who may do nothing are open
	// at once: as long as it takes to tell them.
	maxStrangers = 4
	// idleTimeout is how long a client may say nothing between two requests, or not
	// take what it is sent.
	idleTimeout = time.Minute
	// requestTimeout is how long it may take to send a request.
	requestTimeout = 5 * time.Second
)

// limiter is a listener with room for so many clients. Those who may only ask get
// half of it, so that orders find room.
type limiter struct {
	net.Listener
	access  Access
	most    int
	refused *atomic.Uint64

	mu      sync.Mutex
	open    [operator + 1]int // by level
	telling int               // clients that there is no room
	wg      sync.WaitGroup    // of these
}

// clientConn is a connection that has room.
type clientConn struct {
	net.Conn
	caller caller
	gone   func()
}

// Accept implements net.Listener. Who finds no room is told so and hung up on.
func (l *limiter) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &clientConn{Conn: conn, caller: l.access.callerAt(conn)}
		if l.enter(c.caller.level) {
			c.gone = sync.OnceFunc(func() { l.leave(c.caller.level) })
			return c, nil
		}
		l.refused.Add(1)
		l.refuse(conn)
	}
}

func (l *limiter) enter(lv level) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	room := l.open[reader]+l.open[operator] < l.most
	switch lv {
	case nobody:
		room = l.open[nobody] < maxStrangers
	case reader:
		room = room && l.open[reader] < max(l.most/2, 1)
	}
	if room {
		l.open[lv]++
	}
	return room
}

func (l *limiter) leave(lv level) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[lv]--
}

// refuse has a client told that there is no room, and hung up on.
func (l *limiter) refuse(conn net.Conn) {
	l.mu.Lock()
	told := l.telling < maxTelling
	if told {
		l.telling++
	}
	l.mu.Unlock()
	if !told {
		_ = conn.Close()
		return
	}
	l.wg.Go(func() {
		refuseConn(conn, l.most)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.telling--
	})
}

// Close implements net.Listener, and waits for those who are told that there is no
// room.
func (l *limiter) Close() error {
	err := l.Listener.Close()
	l.wg.Wait()
	return err
}

const (
	// maxTelling clients are told at once; more are hung up on without a word.
	maxTelling = 16
	// tellTime is how long that takes at most.
	tellTime = 300 * time.Millisecond
)

// refuseConn tells a client that there is no room, in HTTP, which both sockets
// begin with, and hangs up. It answers the request, for who writes to a socket that
// has been closed does not read the answer.
func refuseConn(conn net.Conn, most int) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(tellTime))
	if _, err := conn.Read(make([]byte, 4096)); err != nil {
		return
	}
	text := fmt.Sprintf("too many clients (control_clients = %d): try again, or end some\n", most)
	_, _ = fmt.Fprintf(conn, "HTTP/1.1 503 Too many clients, see control_clients\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
	if c, ok := conn.(interface{ CloseWrite() error }); ok && c.CloseWrite() == nil {
		_, _ = io.CopyN(io.Discard, conn, 1<<20) // the rest of a request
	}
}

// Write implements net.Conn: a client that does not read is hung up on.
func (c *clientConn) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(idleTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// Close implements net.Conn.
func (c *clientConn) Close() error {
	c.gone()
	return c.Conn.Close()
}
