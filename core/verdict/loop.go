package verdict

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The loop. Per packet: 0 allocations, 0 locks, no logging. Per batch of up to
// batchSize packets: one recvmmsg and one sendmsg. Memory: batchSize buffers
// of a whole packet each, resident only as far as packets are long.

// batchSize is how many packets one recvmmsg may return. Measured: no gain
// beyond 64 (RATIONALE.md).
const batchSize = 64

// bufferSize holds the largest IP packet with its netlink attributes.
const bufferSize = 1<<16 + 512

// Loop is the state of one running queue. Counters may be read by anyone.
type Loop struct {
	q       *Queue
	h       Handler
	fd      int
	vec     []mmsghdr
	iov     []unix.Iovec
	bufs    []byte
	out     []byte
	pending []uint32 // ids to accept in this batch
	got     int
	errno   syscall.Errno
	wake    atomic.Bool

	Packets  atomic.Uint64 // packets that came up
	Batches  atomic.Uint64
	Overruns atomic.Uint64 // receive errors: the kernel dropped packets
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

// NewLoop prepares a loop; Run runs it.
func NewLoop(q *Queue, h Handler) *Loop {
	l := &Loop{
		q: q, h: h,
		vec:     make([]mmsghdr, batchSize),
		iov:     make([]unix.Iovec, batchSize),
		bufs:    make([]byte, batchSize*bufferSize),
		out:     make([]byte, 0, (batchSize+1)*verdictSize),
		pending: make([]uint32, 0, batchSize),
	}
	for i := range l.vec {
		l.iov[i] = unix.Iovec{Base: &l.bufs[i*bufferSize]}
		l.iov[i].SetLen(bufferSize)
		l.vec[i].hdr.Iov = &l.iov[i]
		l.vec[i].hdr.SetIovlen(1)
	}
	return l
}

// Run takes packets until ctx ends, which is no error. Afterwards the queue is
// still bound, and drops what comes, until it is closed.
func (l *Loop) Run(ctx context.Context) error {
	conn := l.q.nf.Con
	rc, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("nfqueue %d: %w", l.q.cfg.Queue, err)
	}
	if err := rc.Control(func(fd uintptr) { l.fd = int(fd) }); err != nil {
		return fmt.Errorf("nfqueue %d: %w", l.q.cfg.Queue, err)
	}
	defer context.AfterFunc(ctx, l.Wake)()
	receive := l.receive // one closure for good
	next := time.Now()
	for ctx.Err() == nil {
		now, woken := time.Now(), l.wake.Swap(false)
		due := !now.Before(next)
		if due {
			next = now.Add(l.h.Tick(now))
		} else if woken {
			l.h.Woken()
		}
		if due || woken {
			l.h.Flush()
			if err := conn.SetReadDeadline(next); err != nil {
				return fmt.Errorf("nfqueue %d: deadline: %w", l.q.cfg.Queue, err)
			}
			if l.wake.Load() {
				continue // the deadline just set may have undone a Wake
			}
		}
		err := rc.Read(receive)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if !l.wake.Load() {
				next = time.Time{}
			}
			continue
		case err != nil:
			return fmt.Errorf("nfqueue %d: read: %w", l.q.cfg.Queue, err)
		case l.errno == unix.ENOBUFS, l.errno == unix.EINTR:
			l.Overruns.Add(1)
			continue
		case l.errno != 0:
			return fmt.Errorf("nfqueue %d: recvmmsg: %w", l.q.cfg.Queue, l.errno)
		}
		l.batch(l.got)
	}
	return nil
}

// Wake makes the loop call Handler.Woken soon. It may be called from anywhere,
// before, while and after the loop runs.
func (l *Loop) Wake() {
	l.wake.Store(true)
	_ = l.q.nf.Con.SetReadDeadline(time.Unix(1, 0)) // fails when closed, which is awake enough
}

// receive takes a batch, as a rawConn.Read callback: false waits until the socket is readable.
func (l *Loop) receive(fd uintptr) bool {
	n, _, e := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&l.vec[0])), batchSize, unix.MSG_DONTWAIT, 0, 0)
	l.got, l.errno = int(n), e
	return e != unix.EAGAIN
}

// batch shows n packets to the handler and answers them.
func (l *Loop) batch(n int) {
	var m message
	l.pending = l.pending[:0]
	packets, last := 0, uint32(0)
	for i := range n {
		if !m.parse(l.bufs[i*bufferSize:][:min(int(l.vec[i].n), bufferSize)]) {
			continue
		}
		packets++
		last = m.id
		if l.h.Packet(m.payload, m.mark) == Accept {
			l.pending = append(l.pending, m.id)
		}
	}
	l.h.Flush()
	l.Packets.Add(uint64(packets))
	l.Batches.Add(1)
	if packets > 0 {
		l.answer(packets, last)
	}
}

// answer accepts the pending packets one by one and drops the rest at once: a
// batch verdict covers all that have none, up to the last id. With none left
// over the kernel would call it an error.
func (l *Loop) answer(packets int, last uint32) {
	queue := l.q.cfg.Queue
	l.out = l.out[:0]
	for _, id := range l.pending {
		l.out = appendVerdict(l.out, msgVerdict, queue, nfAccept, id)
	}
	if len(l.pending) < packets {
		l.out = appendVerdict(l.out, msgVerdictBatch, queue, nfDrop, last)
	}
	if err := unix.Send(l.fd, l.out, 0); err != nil {
		l.Overruns.Add(1)
	}
}
