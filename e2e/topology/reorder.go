package topology

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// late is how much later packets come that Reorder has picked.
const late = 3 * time.Millisecond

// reorder is a detour that some packets take.
type reorder struct {
	host    *Host
	detour  *netlink.Veth
	in      *os.File // packet socket at the end of the detour
	out     int      // at the port
	program io.Closer
	wg      sync.WaitGroup // of carry, and of the packets that are late
}

// Reorder has one in so many, a power of two, of the packets that come to a port of
// the switch's leave by another port 3 ms later than they would, behind those that
// came after them, until the result is closed. A TC program picks them. Their
// checksums must be finished.
func (s *Switch) Reorder(from, to string, oneIn int32) (io.Closer, error) {
	r := &reorder{host: s.Host, out: -1, detour: &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "late0"}, PeerName: "late1"}}
	if err := s.Do(func() error { return r.open(from, to, oneIn) }); err != nil {
		return nil, errors.Join(fmt.Errorf("reordering on %s: %w", from, err), r.Close())
	}
	r.wg.Go(r.carry)
	return r, nil
}

func (r *reorder) open(from, to string, oneIn int32) error {
	if err := netlink.LinkAdd(r.detour); err != nil {
		return err
	}
	for _, name := range []string{"late0", "late1"} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
	}
	port, err := net.InterfaceByName(from)
	if err != nil {
		return err
	}
	begin, err := net.InterfaceByName("late0")
	if err != nil {
		return err
	}
	end, err := net.InterfaceByName("late1")
	if err != nil {
		return err
	}
	const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	r.in = os.NewFile(uintptr(fd), "late1")
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: end.Index}); err != nil {
		return err
	}
	if r.out, err = rawSocket(to); err != nil {
		return err
	}
	r.program, err = detouring(port.Index, begin.Index, oneIn)
	return err
}

// detouring attaches the program that picks packets.
func detouring(port, detour int, oneIn int32) (io.Closer, error) {
	const next = -1 // TCX_NEXT
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.FnGetPrandomU32.Call(),
		asm.And.Imm(asm.R0, oneIn-1),
		asm.JEq.Imm(asm.R0, 0, "detour"),
		asm.Mov.Imm(asm.R0, next),
		asm.Return(),
		asm.Mov.Imm(asm.R1, int32(detour)).WithSymbol("detour"),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Return(),
	}})
	if err != nil {
		return nil, err
	}
	defer prog.Close()
	return link.AttachTCX(link.TCXOptions{Interface: port, Program: prog, Attach: ebpf.AttachTCXIngress})
}

// carry takes packets from the detour to the port until it is closed.
func (r *reorder) carry() {
	for {
		frame := make([]byte, 65536)
		n, err := r.in.Read(frame)
		if err != nil {
			return
		}
		r.wg.Add(1)
		time.AfterFunc(late, func() {
			defer r.wg.Done()
			_, _ = unix.Write(r.out, frame[:n]) // one that does not go is lost
		})
	}
}

// Close ends it, and waits until no packet is late any more.
func (r *reorder) Close() (err error) {
	if r.program != nil {
		err = r.program.Close()
	}
	if r.in != nil {
		err = errors.Join(err, r.in.SetReadDeadline(time.Now().Add(late))) // carry takes what has come
		r.wg.Wait()
		err = errors.Join(err, r.in.Close())
	}
	if r.out >= 0 {
		err = errors.Join(err, unix.Close(r.out))
	}
	return errors.Join(err, r.host.Do(func() error { return netlink.LinkDel(r.detour) }))
}
