package verdict

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	nfqueue "github.com/florianl/go-nfqueue/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Plain is a queue worked by go-nfqueue's own callback: a system call to peek,
// one to read and one to answer for every packet. It is the portable loop, and
// what `make bench` measures Loop against; nothing that is in a hurry uses it.
type Plain struct {
	q    *Queue
	h    Handler
	mu   sync.Mutex // the callback and the ticks are two goroutines
	stop context.CancelFunc
	done sync.WaitGroup
}

// OpenPlain binds the queue in the calling thread's network namespace and
// shows its packets to h, one at a time, until Close. No packet may come before
// it returns: it would be taken for an acknowledgement.
func OpenPlain(cfg Config, h Handler) (*Plain, error) {
	nf, err := nfqueue.Open(&nfqueue.Config{NfQueue: cfg.Queue, MaxQueueLen: cfg.Length, MaxPacketLen: maxPacket, Copymode: copyPacket})
	if err != nil {
		return nil, fmt.Errorf("nfqueue %d: open: %w", cfg.Queue, err)
	}
	p := &Plain{q: &Queue{cfg: cfg, nf: nf}, h: h}
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	if err := p.start(ctx); err != nil {
		cancel()
		return nil, errors.Join(fmt.Errorf("nfqueue %d: %w", cfg.Queue, err), nf.Con.Close())
	}
	return p, nil
}

func (p *Plain) start(ctx context.Context) error {
	if err := p.q.nf.SetOption(netlink.NoENOBUFS, true); err != nil {
		return fmt.Errorf("no-enobufs: %w", err)
	}
	if err := p.q.setBuffer(); err != nil {
		return fmt.Errorf("receive buffer of %d bytes: %w", p.q.cfg.Buffer, err)
	}
	if err := p.q.nf.RegisterWithErrorFunc(ctx, p.packet, readOn); err != nil {
		return err
	}
	if p.q.cfg.Tick > 0 {
		p.done.Go(func() { p.ticks(ctx) })
	}
	return nil
}

// readOn says 0 after errors that a packet lost to a full buffer leaves behind.
func readOn(err error) int {
	if errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EINTR) {
		return 0
	}
	return 1
}

func (p *Plain) packet(a nfqueue.Attribute) int {
	if a.PacketID == nil || a.Payload == nil {
		return 0
	}
	mark := uint32(0)
	if a.Mark != nil {
		mark = *a.Mark
	}
	p.mu.Lock()
	v := p.h.Packet(*a.Payload, mark)
	p.h.Flush()
	p.mu.Unlock()
	answer := nfqueue.NfDrop
	if v == Accept {
		answer = nfqueue.NfAccept
	}
	// An error is a packet that the kernel no longer holds.
	_ = p.q.nf.SetVerdict(*a.PacketID, answer)
	return 0
}

func (p *Plain) ticks(ctx context.Context) {
	t := time.NewTicker(p.q.cfg.Tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			p.mu.Lock()
			p.h.Tick(now)
			p.h.Flush()
			p.mu.Unlock()
		}
	}
}

// Close unbinds the queue and waits for the handler to return.
func (p *Plain) Close() error {
	p.stop()
	p.done.Wait()
	return p.q.nf.Close()
}
