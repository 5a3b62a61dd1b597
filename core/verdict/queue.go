// Package verdict is the NFQUEUE verdict loop: it takes batches of packets off
// one kernel queue, shows each to a Handler, and answers a whole batch with
// one system call. It is the only importer of go-nfqueue.
//
// go-nfqueue opens the netlink socket; the loop configures the queue and reads
// and answers on that same socket, since the kernel accepts verdicts from no
// other. Its callback API costs three system calls and 16 allocations a
// packet; the loop costs two system calls a batch and allocates nothing
// (RATIONALE.md has the figures).
package verdict

import (
	"encoding/binary"
	"fmt"
	"time"

	nfqueue "github.com/florianl/go-nfqueue/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Handler decides about the packets of one queue. All its methods are called
// from the loop's goroutine.
type Handler interface {
	// Packet looks at one IP packet, whole and with finished checksums, and
	// returns what the kernel does with it. The bytes stay valid until Flush
	// returns.
	Packet(b []byte, mark uint32) Verdict
	// Flush ends a batch; the verdicts are sent afterwards.
	Flush()
	// Woken is called soon after a Wake.
	Woken()
	// Tick is called once in a while and returns after which time again.
	Tick(now time.Time) (next time.Duration)
}

// Verdict is what becomes of a packet.
type Verdict uint8

// The verdicts that a Handler may give.
const (
	Drop   Verdict = iota // refused
	Stolen                // the handler forwarded its bytes, or will; the kernel forgets it as one dropped
	Accept                // goes on through the host's stack
)

// Config describes one queue.
type Config struct {
	Queue  uint16
	Length uint32 // packets that wait in the kernel; more are dropped
	Buffer int    // socket receive buffer, bytes
}

// Queue is one bound NFQUEUE.
type Queue struct {
	cfg Config
	nf  *nfqueue.Nfqueue
}

// Configuration commands and attributes of nfnetlink_queue.
const (
	cfgCmd         = 1
	cfgParams      = 2
	cfgMaxLen      = 3
	cmdBind   byte = 1

	copyPacket byte = 2
	maxPacket       = 0xffff
)

// Open binds the queue in the calling thread's network namespace. It fails
// when another socket has bound it.
func Open(cfg Config) (*Queue, error) {
	nf, err := nfqueue.Open(&nfqueue.Config{NfQueue: cfg.Queue, MaxQueueLen: cfg.Length, MaxPacketLen: maxPacket, Copymode: copyPacket})
	if err != nil {
		return nil, fmt.Errorf("nfqueue %d: open: %w", cfg.Queue, err)
	}
	q := &Queue{cfg: cfg, nf: nf}
	if err := q.configure(); err != nil {
		nf.Con.Close()
		return nil, err
	}
	return q, nil
}

// configure sets the copy mode last: from then on packets may arrive, and one
// that overtakes an acknowledgement would be taken for it. The GSO flag stays
// off, so that super-packets come up segmented and with finished checksums,
// fit to be forwarded from here.
func (q *Queue) configure() error {
	if err := q.nf.SetOption(netlink.NoENOBUFS, true); err != nil {
		return fmt.Errorf("nfqueue %d: no-enobufs: %w", q.cfg.Queue, err)
	}
	if err := q.setBuffer(); err != nil {
		return fmt.Errorf("nfqueue %d: receive buffer of %d bytes: %w", q.cfg.Queue, q.cfg.Buffer, err)
	}
	steps := []struct {
		what string
		attr netlink.Attribute
	}{
		{"bind (is another program using it? /proc/net/netfilter/nfnetlink_queue lists who)", netlink.Attribute{Type: cfgCmd, Data: []byte{cmdBind, 0, 0, 0}}},
		{"length", netlink.Attribute{Type: cfgMaxLen, Data: binary.BigEndian.AppendUint32(nil, q.cfg.Length)}},
		{"copy mode", netlink.Attribute{Type: cfgParams, Data: append(binary.BigEndian.AppendUint32(nil, maxPacket), copyPacket)}},
	}
	for _, s := range steps {
		if err := q.set(s.attr); err != nil {
			return fmt.Errorf("nfqueue %d: %s: %w", q.cfg.Queue, s.what, err)
		}
	}
	return nil
}

// set sends one configuration attribute and waits for its acknowledgement.
func (q *Queue) set(a netlink.Attribute) error {
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{a})
	if err != nil {
		return err
	}
	head := binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0}, q.cfg.Queue)
	_, err = q.nf.Con.Execute(netlink.Message{
		Header: netlink.Header{Type: msgConfig, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append(head, attrs...),
	})
	return err
}

func (q *Queue) setBuffer() error {
	rc, err := q.nf.Con.SyscallConn()
	if err != nil {
		return err
	}
	var opt error
	err = rc.Control(func(fd uintptr) {
		opt = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, q.cfg.Buffer)
	})
	if opt != nil {
		return opt
	}
	return err
}

// SetLength changes how many packets may wait in the kernel.
func (q *Queue) SetLength(packets uint32) error {
	head := binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0}, q.cfg.Queue)
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: cfgMaxLen, Data: binary.BigEndian.AppendUint32(nil, packets)}})
	if err != nil {
		return fmt.Errorf("nfqueue %d: length: %w", q.cfg.Queue, err)
	}
	// Without an acknowledgement, which packets would be mixed with.
	_, err = q.nf.Con.Send(netlink.Message{Header: netlink.Header{Type: msgConfig, Flags: netlink.Request}, Data: append(head, attrs...)})
	if err != nil {
		return fmt.Errorf("nfqueue %d: length: %w", q.cfg.Queue, err)
	}
	return nil
}

// Close unbinds the queue; the kernel drops the packets that still wait.
func (q *Queue) Close() error { return q.nf.Con.Close() }
