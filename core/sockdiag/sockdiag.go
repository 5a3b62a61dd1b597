// Package sockdiag asks the kernel about TCP sockets: which have been destroyed,
// and whether one is there (sock_diag(7), linux/sock_diag.h, linux/inet_diag.h).
// A kernel that has it as a module (tcp_diag) loads it when it is asked.
//
//	w, err := sockdiag.Watch(ipv6)
//	ended, err := w.Receive(nil)
//	…
//	a, err := sockdiag.Open()
//	states, err := a.Ask(conns)
package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Conn is a TCP connection as this host has it.
type Conn struct {
	Local, Remote netip.AddrPort // IPv4 as such, whatever the socket's family
}

// State is what the kernel says of a connection.
type State uint8

// The states. A connection in TIME_WAIT is over: its socket has been destroyed.
const (
	None      State = iota // no socket, and nobody listens
	Listening              // no socket, but somebody listens there
	Ended                  // TIME_WAIT
	Opening                // SYN_RECV: the handshake is not over
	Alive
)

var stateNames = [...]string{"none", "listening", "ended", "opening", "alive"}

func (s State) String() string { return stateNames[s] }

// Groups of sock_diag's notifications (enum sknetlink_groups).
const (
	groupTCP4 = 1 // SKNLGRP_INET_TCP_DESTROY
	groupTCP6 = 3 // SKNLGRP_INET6_TCP_DESTROY
)

// States of include/net/tcp_states.h.
const (
	tcpSynRecv    = 3
	tcpTimeWait   = 6
	tcpClose      = 7
	tcpListen     = 10
	tcpNewSynRecv = 12
)

// ErrLost says that notifications were lost: there were more than the buffer
// holds.
var ErrLost = errors.New("sock_diag: notifications lost")

// Watcher receives the connections whose sockets have been destroyed, but for
// those that nobody accepted. Its methods but Close are called by one goroutine.
type Watcher struct {
	conn *netlink.Conn
	raw  syscall.RawConn
	buf  []byte
}

const (
	// watchBuffer is the receive buffer of a Watcher, bytes: some 10 000
	// notifications.
	watchBuffer = 8 << 20
	// watchBatch is how many notifications Receive takes at most.
	watchBatch = 4096
)

// Watch watches the sockets of this network namespace, of both families.
func Watch() (*Watcher, error) {
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return nil, fmt.Errorf("sock_diag: %w", err)
	}
	_ = conn.SetReadBuffer(watchBuffer) // what can be had
	for _, g := range []uint32{groupTCP4, groupTCP6} {
		if err := conn.JoinGroup(g); err != nil {
			return nil, errors.Join(fmt.Errorf("sock_diag: notifications of destroyed sockets: %w", err), conn.Close())
		}
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("sock_diag: %w", err), conn.Close())
	}
	return &Watcher{conn, raw, make([]byte, 8<<10)}, nil
}

// Receive waits for notifications and adds those that are there to conns. ErrLost
// does not end it; it fails once Close was called.
func (w *Watcher) Receive(conns []Conn) ([]Conn, error) {
	var failed error
	got := 0
	err := w.raw.Read(func(fd uintptr) (done bool) {
		for got < watchBatch {
			n, _, err := unix.Recvfrom(int(fd), w.buf, unix.MSG_DONTWAIT)
			switch {
			case errors.Is(err, unix.EINTR):
				continue
			case errors.Is(err, unix.EAGAIN):
				return got > 0
			case errors.Is(err, unix.ENOBUFS):
				failed = ErrLost
				return true
			case err != nil:
				failed = fmt.Errorf("sock_diag: %w", err)
				return true
			}
			got++
			conns = notified(w.buf[:n], conns)
		}
		return true
	})
	if err != nil {
		failed = fmt.Errorf("sock_diag: %w", err)
	}
	return conns, failed
}

// notified adds the connections of a datagram of messages (struct nlmsghdr).
func notified(b []byte, conns []Conn) []Conn {
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			break
		}
		if c, state, ok := parse(b[unix.SizeofNlMsghdr:size]); ok && state != tcpListen {
			conns = append(conns, c)
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return conns
}

// Close ends the watching.
func (w *Watcher) Close() error { return w.conn.Close() }

// Asker looks connections up. Its methods are called by one goroutine at a time.
type Asker struct {
	conn   *netlink.Conn
	links  []int          // that sockets may be bound to
	looked time.Time      // when
	tells  map[uint8]bool // protocols, those that were asked about: sockets of theirs are found
}

const (
	// maxLinks are looked at: each costs as much as a look-up without one.
	maxLinks = 16
	// linksAge is how old the list of links may be.
	linksAge = 10 * time.Second
)

// look brings the list of links up to date.
func (a *Asker) look() error {
	if time.Since(a.looked) < linksAge {
		return nil
	}
	links, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("sock_diag: links: %w", err)
	}
	a.links, a.looked = a.links[:0], time.Now()
	for _, l := range links[:min(len(links), maxLinks)] {
		a.links = append(a.links, l.Index)
	}
	return nil
}

// Open returns an Asker for this network namespace.
func Open() (*Asker, error) {
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return nil, fmt.Errorf("sock_diag: %w", err)
	}
	return &Asker{conn: conn}, nil
}

// Close ends the Asker.
func (a *Asker) Close() error { return a.conn.Close() }

// askBatch is how many look-ups one system call asks for.
const askBatch = 64

// Ask returns the states of connections, in their order. What is not found is
// looked for once more on each link, for sockets that are bound to one.
func (a *Asker) Ask(conns []Conn) ([]State, error) {
	states, err := a.askAll(conns, 0)
	if err != nil {
		return nil, err
	}
	var missing []int
	var again []Conn
	for i, s := range states {
		if s <= Listening {
			missing, again = append(missing, i), append(again, conns[i])
		}
	}
	if missing == nil {
		return states, nil
	}
	if err := a.look(); err != nil {
		return nil, err
	}
	for _, link := range a.links {
		found, err := a.askAll(again, link)
		if err != nil {
			return nil, err
		}
		for j, s := range found {
			states[missing[j]] = max(states[missing[j]], s)
		}
	}
	return states, nil
}

func (a *Asker) askAll(conns []Conn, link int) ([]State, error) {
	states := make([]State, 0, len(conns))
	for len(conns) > 0 {
		n := min(len(conns), askBatch)
		var err error
		if states, err = a.ask(conns[:n], link, states); err != nil {
			return nil, err
		}
		conns = conns[n:]
	}
	return states, nil
}

// ask sends some look-ups; the kernel answers them one by one, in their order.
func (a *Asker) ask(conns []Conn, link int, states []State) ([]State, error) {
	messages := make([]netlink.Message, len(conns))
	for i, c := range conns {
		messages[i] = netlink.Message{
			Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request},
			Data:   request(c, link),
		}
	}
	if _, err := a.conn.SendMessages(messages); err != nil {
		return nil, fmt.Errorf("sock_diag: %w", err)
	}
	for range conns {
		answer, err := a.conn.Receive()
		switch {
		case errors.Is(err, os.ErrNotExist):
			states = append(states, None)
		case err != nil:
			return nil, fmt.Errorf("sock_diag: %w", err)
		case len(answer) != 1:
			return nil, fmt.Errorf("sock_diag: %d answers to one question", len(answer))
		default:
			_, state, _ := parse(answer[0].Data)
			states = append(states, stateOf(state))
		}
	}
	return states, nil
}

// ErrNoDiag is what Listens returns where the kernel has nothing to ask.
var ErrNoDiag = errors.New("sock_diag: this kernel does not tell who listens (CONFIG_INET_DIAG, CONFIG_INET_UDP_DIAG)")

// Listens reports whether a socket takes what comes to an address, by TCP or UDP,
// which may be bound to that or to any address.
func (a *Asker) Listens(proto uint8, at netip.AddrPort) (bool, error) {
	if there, err := a.listens(proto, at); there || err != nil {
		return there, err
	}
	// A kernel without the module says of every socket that there is none.
	if a.tells == nil {
		a.tells = map[uint8]bool{}
	}
	if _, known := a.tells[proto]; !known {
		tells, err := a.seesOwn(proto)
		if err != nil {
			return false, err
		}
		a.tells[proto] = tells
	}
	if !a.tells[proto] {
		return false, ErrNoDiag
	}
	return false, nil
}

// seesOwn reports whether a socket is found that is surely there.
func (a *Asker) seesOwn(proto uint8) (bool, error) {
	var own net.Addr
	if proto == unix.IPPROTO_UDP {
		c, err := net.ListenPacket("udp4", "0.0.0.0:0")
		if err != nil {
			return false, fmt.Errorf("sock_diag: a socket to look for: %w", err)
		}
		defer c.Close()
		own = c.LocalAddr()
	} else {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return false, fmt.Errorf("sock_diag: a socket to look for: %w", err)
		}
		defer l.Close()
		own = l.Addr()
	}
	at, err := netip.ParseAddrPort(own.String())
	if err != nil {
		return false, err
	}
	return a.listens(proto, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), at.Port()))
}

func (a *Asker) listens(proto uint8, at netip.AddrPort) (bool, error) {
	if proto != unix.IPPROTO_UDP {
		cookie, err := a.Listener(at)
		return cookie != 0, err
	}
	// udp_dump_one has the two ends the other way round.
	data := request(Conn{netip.AddrPortFrom(unspecified(at.Addr()), 0), at}, 0)
	data[1] = unix.IPPROTO_UDP
	_, err := a.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request}, Data: data,
	})
	switch {
	case errors.Is(err, os.ErrNotExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("sock_diag: %w", err)
	}
	return true, nil
}

// unspecified returns the address of nobody in an address's family.
func unspecified(a netip.Addr) netip.Addr {
	if a.Is6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// Listener returns the cookie of the socket that listens at an address and is bound
// to no link; 0: there is none.
func (a *Asker) Listener(at netip.AddrPort) (cookie uint64, err error) {
	nobody := netip.AddrPortFrom(unspecified(at.Addr()), 0)
	answer, err := a.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request},
		Data:   request(Conn{at, nobody}, 0),
	})
	switch {
	case errors.Is(err, os.ErrNotExist):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("sock_diag: %w", err)
	case len(answer) != 1 || len(answer[0].Data) < messageSize:
		return 0, errors.New("sock_diag: answer of another shape")
	}
	if _, state, _ := parse(answer[0].Data); state != tcpListen {
		return 0, nil
	}
	return binary.NativeEndian.Uint64(answer[0].Data[4+cookieOffset:]), nil
}

// Count returns how many connections there are to each of these addresses' ports,
// but for those that an address has with itself.
func (a *Asker) Count(local map[netip.Addr]bool) (map[netip.AddrPort]int, error) {
	counts := map[netip.AddrPort]int{}
	for _, family := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		all := request(Conn{netip.AddrPortFrom(family, 0), netip.AddrPortFrom(family, 0)}, 0)
		binary.NativeEndian.PutUint32(all[4:], connectedStates)
		answer, err := a.conn.Execute(netlink.Message{
			Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request | netlink.Dump},
			Data:   all,
		})
		if err != nil {
			return nil, fmt.Errorf("sock_diag: %w", err)
		}
		for _, m := range answer {
			c, _, ok := parse(m.Data)
			if ok && local[c.Local.Addr()] && c.Remote.Addr() != c.Local.Addr() && m.Data[2] != timerTimeWait {
				counts[c.Local]++
			}
		}
	}
	return counts, nil
}

func stateOf(tcp uint8) State {
	switch tcp {
	case tcpListen:
		return Listening
	case tcpTimeWait, tcpClose:
		return Ended
	case tcpSynRecv, tcpNewSynRecv:
		return Opening
	}
	return Alive
}

const (
	requestSize = 56 // struct inet_diag_req_v2
	messageSize = 72 // struct inet_diag_msg
	allStates   = 1<<13 - 1

	cookieOffset = 40 // in struct inet_diag_sockid

	// connectedStates are ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK and
	// CLOSING.
	connectedStates = 1<<1 | 1<<4 | 1<<5 | 1<<8 | 1<<9 | 1<<11
	// timerTimeWait is the idiag_timer of what is left of a destroyed socket, also in
	// FIN_WAIT2 (inet_twsk_diag_fill in net/ipv4/inet_diag.c).
	timerTimeWait = 3
)

// request returns a struct inet_diag_req_v2 for one connection, by a socket that is
// bound to no link, or to this one.
func request(c Conn, link int) []byte {
	b := make([]byte, requestSize)
	b[0], b[1] = unix.AF_INET, unix.IPPROTO_TCP
	if c.Local.Addr().Is6() {
		b[0] = unix.AF_INET6
	}
	binary.NativeEndian.PutUint32(b[4:], allStates)
	id := b[8:]
	binary.BigEndian.PutUint16(id, c.Local.Port())
	binary.BigEndian.PutUint16(id[2:], c.Remote.Port())
	copy(id[4:20], c.Local.Addr().AsSlice())
	copy(id[20:36], c.Remote.Addr().AsSlice())
	binary.NativeEndian.PutUint32(id[36:], uint32(link))
	binary.NativeEndian.PutUint64(id[cookieOffset:], ^uint64(0)) // INET_DIAG_NOCOOKIE
	return b
}

// parse reads a struct inet_diag_msg.
func parse(b []byte) (c Conn, state uint8, ok bool) {
	if len(b) < messageSize {
		return c, 0, false
	}
	size := 4
	if b[0] == unix.AF_INET6 {
		size = 16
	}
	id := b[4:]
	local, _ := netip.AddrFromSlice(id[4 : 4+size])
	remote, _ := netip.AddrFromSlice(id[20 : 20+size])
	return Conn{
		netip.AddrPortFrom(local.Unmap(), binary.BigEndian.Uint16(id)),
		netip.AddrPortFrom(remote.Unmap(), binary.BigEndian.Uint16(id[2:])),
	}, b[1], true
}
