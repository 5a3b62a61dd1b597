package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/caplance/caplance/core/verdict"
	nfqueue "github.com/florianl/go-nfqueue/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// plain is a queue worked by go-nfqueue's own callback: a system call to peek,
// one to read and one to answer for every packet. The verdict loop is measured
// against it.
type plain struct {
	nf   *nfqueue.Nfqueue
	h    verdict.Handler
	stop context.CancelFunc
}

// openPlain binds the queue in the calling thread's network namespace and
// shows its packets to h, one at a time, until Close. No packet may come before
// it returns: it would be taken for an acknowledgement.
func openPlain(cfg verdict.Config, h verdict.Handler) (*plain, error) {
	nf, err := nfqueue.Open(&nfqueue.Config{NfQueue: cfg.Queue, MaxQueueLen: cfg.Length, MaxPacketLen: 0xffff, Copymode: nfqueue.NfQnlCopyPacket})
	if err != nil {
		return nil, fmt.Errorf("nfqueue %d: open: %w", cfg.Queue, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &plain{nf: nf, h: h, stop: cancel}
	if err := p.start(ctx, cfg.Buffer); err != nil {
		cancel()
		return nil, errors.Join(fmt.Errorf("nfqueue %d: %w", cfg.Queue, err), nf.Con.Close())
	}
	return p, nil
}

func (p *plain) start(ctx context.Context, buffer int) error {
	if err := p.nf.SetOption(netlink.NoENOBUFS, true); err != nil {
		return fmt.Errorf("no-enobufs: %w", err)
	}
	if err := p.nf.Con.SetReadBuffer(buffer); err != nil {
		return fmt.Errorf("receive buffer of %d bytes: %w", buffer, err)
	}
	return p.nf.RegisterWithErrorFunc(ctx, p.packet, readOn)
}

// readOn returns 0 after errors that a packet lost to a full buffer leaves
// behind.
func readOn(err error) int {
	if errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EINTR) {
		return 0
	}
	return 1
}

func (p *plain) packet(a nfqueue.Attribute) int {
	if a.PacketID == nil || a.Payload == nil {
		return 0
	}
	mark := uint32(0)
	if a.Mark != nil {
		mark = *a.Mark
	}
	v := p.h.Packet(*a.Payload, mark)
	p.h.Flush()
	answer := nfqueue.NfDrop
	if v == verdict.Accept {
		answer = nfqueue.NfAccept
	}
	// An error is a packet that the kernel no longer holds.
	_ = p.nf.SetVerdict(*a.PacketID, answer)
	return 0
}

// Close unbinds the queue and waits for the handler to return.
func (p *plain) Close() error {
	p.stop()
	return p.nf.Close()
}

// idle is the rest of a verdict.Handler that has nothing to do between packets.
type idle struct{}

func (idle) Flush()                       {}
func (idle) Woken()                       {}
func (idle) Tick(time.Time) time.Duration { return time.Second }
