package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/caplance/caplance/e2e/topology"
	"golang.org/x/sys/unix"
)

// flood sends UDP datagrams of a new flow each, as fast as one thread can: raw
// frames, 64 to a system call, past the queueing discipline.
type flood struct {
	*messages
	fd   int
	flow uint32 // source address and port of the next

	sent atomic.Uint64
	stop atomic.Bool
	done sync.WaitGroup
}

const (
	etherHeader = 14
	ipHeader    = 20
	frameSize   = 60
)

// openFlood prepares to send from a host's link to the link address mac, for
// the VIP.
func openFlood(h *topology.Host, link string, mac net.HardwareAddr, vip netip.AddrPort) (*flood, error) {
	f := &flood{messages: newMessages(frameSize), fd: -1}
	err := h.Do(func() error {
		l, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		// Protocol 0: nothing is received.
		if f.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(f.fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
			return err
		}
		return unix.Bind(f.fd, &unix.SockaddrLinklayer{Ifindex: l.Index})
	})
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	for i := range f.buf {
		template(f.buf[i], mac, vip)
	}
	return f, nil
}

// template fills in what all frames have in common.
func template(b []byte, mac net.HardwareAddr, vip netip.AddrPort) {
	copy(b, mac)
	copy(b[6:], []byte{2, 0, 0, 0, 0, 1})
	binary.BigEndian.PutUint16(b[12:], unix.ETH_P_IP)
	ip := b[etherHeader:]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[16:], vip.Addr().AsSlice())
	udp := ip[ipHeader:]
	binary.BigEndian.PutUint16(udp[2:], vip.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
}

// start floods until the returned function is called.
func (f *flood) start() (stop func()) {
	f.stop.Store(false)
	f.done.Go(func() {
		for !f.stop.Load() {
			f.batch()
		}
	})
	return func() {
		f.stop.Store(true)
		f.done.Wait()
	}
}

// batch sends as many flows as fit into a system call.
func (f *flood) batch() {
	f.fill()
	n, _ := f.send(f.fd)
	f.sent.Add(uint64(n))
}

// fill makes every frame one of a flow that was not there before.
func (f *flood) fill() {
	for i := range f.buf {
		ip := f.buf[i][etherHeader:]
		f.flow++
		// From 10.0.0.0/8, 60 000 ports each.
		binary.BigEndian.PutUint32(ip[12:], 10<<24|f.flow/60000)
		binary.BigEndian.PutUint16(ip[ipHeader:], uint16(1024+f.flow%60000))
		checksum(ip[:ipHeader])
	}
}

// checksum fills in that of an IPv4 header (RFC 1071).
func checksum(h []byte) {
	h[10], h[11] = 0, 0
	sum := uint32(0)
	for i := 0; i < len(h); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	sum = sum&0xffff + sum>>16
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(h[10:], ^uint16(sum))
}

func (f *flood) close() error { return unix.Close(f.fd) }
