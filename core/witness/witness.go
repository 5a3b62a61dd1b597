// Package witness tells a balancer which TCP connections of this host are there:
// the agent's end of a session's second stream (docs/protocol.md, "Connections").
//
//	w, err := witness.Open("/run/caplance/agent.ports", log)
//	go w.Run(ctx)
//	w.SetVIPs(vips)
//	w.Talk(ctx, stream) // until it breaks
package witness

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/protocol"
	"github.com/caplance/caplance/core/sockdiag"
)

const (
	// gather is about how long ended connections are gathered before they are
	// told.
	gather = 20 * time.Millisecond
	// maxEnded connections wait to be told, 48 bytes each; the oldest give way.
	maxEnded = 1 << 16
	// maxSeen is how many ports of VIPs may have had sockets.
	maxSeen = 1 << 16
)

// Witness watches the sockets of this network namespace.
type Witness struct {
	watcher *sockdiag.Watcher
	vips    atomic.Pointer[map[netip.Addr]bool]

	asking sync.Mutex // guards asker
	asker  *sockdiag.Asker

	mu    sync.Mutex
	ended []ended
	lost  bool                      // some that ended are not in it
	seen  map[netip.AddrPort]uint64 // ports of VIPs that have had sockets here; cookie of the one that listens, 0: not known
	ports map[uint16]bool           // ports of sockets that were reset here, whatever their address was
	asked map[uint16]bool           // ports of VIPs that were seen, or the balancer has asked about
	fresh chan struct{}             // holds one: ended or lost is not empty

	log     *slog.Logger
	saving  sync.Mutex // guards the file
	file    string     // keeps seen, see memory; "": none
	changed bool       // seen is not what the file says; guarded by mu
}

// ended is a connection and when it ended.
type ended struct {
	key core.FlowKey
	at  time.Time
}

// Open fails where the kernel does not tell of sockets. The file, if not "", keeps
// what a successor has to know; the log hears when it cannot.
func Open(file string, log *slog.Logger) (*Witness, error) {
	watcher, err := sockdiag.Watch()
	if err != nil {
		return nil, err
	}
	asker, err := sockdiag.Open()
	if err != nil {
		return nil, errors.Join(err, watcher.Close())
	}
	w := &Witness{watcher: watcher, asker: asker, lost: true, seen: map[netip.AddrPort]uint64{}, ports: map[uint16]bool{}, asked: map[uint16]bool{}, fresh: make(chan struct{}, 1), file: file, log: log}
	if _, err := asker.Ask([]sockdiag.Conn{probe}); err != nil { // it may be that the kernel knows no TCP there
		return nil, errors.Join(err, w.Close())
	}
	w.SetVIPs(nil)
	if err := w.recall(); err != nil {
		log.Warn("ports of connections seen before are not known", "err", err)
	}
	return w, nil
}

// probe is a connection that nobody has.
var probe = sockdiag.Conn{Local: netip.MustParseAddrPort("127.0.0.1:0"), Remote: netip.MustParseAddrPort("127.0.0.1:0")}

// Close ends what Open began. Run has ended, or was not called.
func (w *Witness) Close() error { return errors.Join(w.watcher.Close(), w.asker.Close()) }

// SetVIPs makes the witness watch connections to these addresses.
func (w *Witness) SetVIPs(vips []netip.Addr) {
	set := make(map[netip.Addr]bool, len(vips))
	for _, v := range vips {
		set[v] = true
	}
	w.vips.Store(&set)
}

// Run notes the connections that end until ctx ends, which is no error.
func (w *Witness) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { w.watcher.Close() })
	defer stop()
	var conns []sockdiag.Conn
	for {
		var err error
		conns, err = w.watcher.Receive(conns[:0])
		switch {
		case errors.Is(err, sockdiag.ErrLost):
			w.note(nil, true)
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		w.note(conns, false)
		w.remember()
		pause(ctx, gather/2) // others end meanwhile: to be woken for each costs more than it
	}
}

// note adds connections that have ended to those that are to be told.
func (w *Witness) note(conns []sockdiag.Conn, lost bool) {
	vips, now := *w.vips.Load(), time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	before := len(w.ended)
	for _, c := range conns {
		if c.Remote.Port() == 0 {
			if !w.vagueLocked(c, vips) {
				continue
			}
		} else if !vips[c.Local.Addr()] {
			continue
		} else {
			w.sawLocked(c.Local)
		}
		if len(w.ended) == maxEnded {
			w.ended, lost = w.ended[:copy(w.ended, w.ended[maxEnded/2:])], true
		}
		w.ended = append(w.ended, ended{keyOf(c), now})
	}
	w.lost = w.lost || lost
	if len(w.ended) > before || lost {
		select {
		case w.fresh <- struct{}{}:
		default:
		}
	}
}

// vagueLocked reports whether a connection that this side has reset may be a VIP's.
// The kernel has forgotten the client's port by then, and its own address, where
// the socket that listens has none (tcp_disconnect).
func (w *Witness) vagueLocked(c sockdiag.Conn, vips map[netip.Addr]bool) bool {
	port := c.Local.Port()
	if c.Remote.Addr().IsUnspecified() { // it has listened: who listens next may be another
		w.forgetLocked(c.Local)
		return false
	}
	if c.Local.Addr().IsUnspecified() && len(w.ports) < maxSeen {
		w.ports[port] = true
	}
	return vips[c.Local.Addr()] || c.Local.Addr().IsUnspecified() && w.asked[port]
}

// forgetLocked forgets that a port is served here.
func (w *Witness) forgetLocked(local netip.AddrPort) {
	delete(w.ports, local.Port())
	maps.DeleteFunc(w.seen, func(p netip.AddrPort, _ uint64) (gone bool) {
		gone = p == local || local.Addr().IsUnspecified() && p.Port() == local.Port()
		w.changed = w.changed || gone
		return gone
	})
}

// sawLocked notes that a port of a VIP is served here.
func (w *Witness) sawLocked(local netip.AddrPort) {
	if _, ok := w.seen[local]; !ok && len(w.seen) < maxSeen {
		w.seen[local], w.asked[local.Port()], w.changed = 0, true, true
	}
}

// take returns what is to be told, as frames.
func (w *Witness) take() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	var frames []byte
	if w.lost {
		frames = protocol.AppendFrames(frames, protocol.LostFrame, nil)
	}
	if len(w.ended) > 0 {
		reports, now := make([]protocol.Report, len(w.ended)), time.Now()
		for i, e := range w.ended {
			reports[i] = protocol.Report{Key: e.key, Value: protocol.Milliseconds(now.Sub(e.at).Milliseconds())}
		}
		frames = protocol.AppendFrames(frames, protocol.EndedFrame, reports)
	}
	w.ended, w.lost = w.ended[:0], false
	return frames
}

// answer answers questions about connections.
func (w *Witness) answer(about []protocol.Report) ([]byte, error) {
	conns := make([]sockdiag.Conn, len(about))
	for i := range about {
		conns[i] = sockdiag.Conn{Local: about[i].Key.DstAddr(), Remote: about[i].Key.SrcAddr()}
	}
	w.asking.Lock()
	states, err := w.asker.Ask(conns)
	w.asking.Unlock()
	if err != nil {
		return nil, err
	}
	vips := *w.vips.Load()
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, s := range states {
		if s == sockdiag.Alive && vips[conns[i].Local.Addr()] {
			w.sawLocked(conns[i].Local)
		}
		if vips[conns[i].Local.Addr()] && len(w.asked) < maxSeen {
			w.asked[conns[i].Local.Port()] = true
		}
		about[i].Value = uint16(w.stateLocked(conns[i].Local, s))
	}
	return protocol.AppendFrames(nil, protocol.AnswerFrame, about), nil
}

// count answers how many connections there are.
func (w *Witness) count() ([]byte, error) {
	w.asking.Lock()
	defer w.asking.Unlock()
	counts, err := w.asker.Count(*w.vips.Load())
	return protocol.AppendCounts(nil, counts), err
}

// stateLocked returns what may be said of a connection to a port. Where nobody
// listens, or no socket was ever seen, it may be a container's, behind NAT.
func (w *Witness) stateLocked(local netip.AddrPort, s sockdiag.State) protocol.ConnState {
	_, seen := w.seen[local]
	switch {
	case s == sockdiag.Alive:
		return protocol.ConnAlive
	case s == sockdiag.Opening:
		return protocol.ConnOpening
	case s == sockdiag.Ended, s == sockdiag.Listening && (seen || w.ports[local.Port()]):
		return protocol.ConnGone
	}
	return protocol.ConnUnknown
}

func keyOf(c sockdiag.Conn) core.FlowKey {
	return core.FlowKey{
		Src: c.Remote.Addr().As16(), Dst: c.Local.Addr().As16(), SrcPort: c.Remote.Port(), DstPort: c.Local.Port(), Proto: core.ProtoTCP,
	}
}
