package forward

import (
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batchSize is how many packets one sendmmsg carries.
const batchSize = 64

type tunnelHeader [8]byte // UDP's (RFC 768)

// batch is a raw socket with what waits to be sent. In the tunnel the kernel
// writes the IP header, so it also chooses the source address, and honours
// routes, rules and path MTUs; a raw UDP socket, since the source port changes
// with the flow. For direct mode the packet brings its own.
type batch struct {
	fd     int
	header int // bytes that go before each packet: 0 or a tunnelHeader
	n      int
	vec    []mmsghdr
	iov    [][2]unix.Iovec
	head   []tunnelHeader
	dst    []unix.RawSockaddrInet6 // as large as a RawSockaddrInet4
	class  []classMessage
}

// classMessage is a control message with the DSCP and ECN of a packet: IP_TOS or
// IPV6_TCLASS (ip(7), ipv6(7)).
type classMessage struct {
	unix.Cmsghdr
	class int32
	_     [4]byte
}

type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

// open makes a socket that sends with DF and receives nothing.
func (b *batch) open(family, proto, header int) error {
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return err
	}
	b.init(fd, header)
	// A raw socket gets a copy of every packet of its protocol: a filter that
	// keeps 0 bytes.
	nothing := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing[0]})
	set := func(level, option, value int) {
		if err == nil {
			err = unix.SetsockoptInt(fd, level, option, value)
		}
	}
	set(unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20)
	// PROBE sends with DF and keeps to the link's MTU, whatever ICMP said of the way:
	// a forged error must not make a path narrow.
	if family == unix.AF_INET {
		set(unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
	} else {
		set(unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
	}
	if family == unix.AF_INET6 && proto == unix.IPPROTO_UDP {
		set(unix.IPPROTO_IPV6, unix.IPV6_CHECKSUM, 6) // not optional over IPv6 (RFC 8200, §8.1)
	}
	if err != nil {
		return fmt.Errorf("options of family %d, protocol %d: %w", family, proto, err)
	}
	return nil
}

func (b *batch) init(fd, header int) {
	b.fd, b.header = fd, header
	b.vec = make([]mmsghdr, batchSize)
	b.iov = make([][2]unix.Iovec, batchSize)
	b.head = make([]tunnelHeader, batchSize)
	b.dst = make([]unix.RawSockaddrInet6, batchSize)
	b.class = make([]classMessage, batchSize)
	for i := range b.vec {
		b.iov[i][0].Base = &b.head[i][0]
		b.iov[i][0].SetLen(header)
		h := &b.vec[i].hdr
		h.Iov = &b.iov[i][0]
		h.SetIovlen(2)
		h.Name = (*byte)(unsafe.Pointer(&b.dst[i]))
	}
}

// mark has a packet of the batch sent with DSCP and ECN, in the header that the
// kernel writes.
func (b *batch) mark(i int, class uint8) {
	h := &b.vec[i].hdr
	if class == 0 { // as the kernel has it by itself: most packets
		h.Control = nil
		h.SetControllen(0)
		return
	}
	c := &b.class[i]
	c.Level, c.Type = unix.IPPROTO_IP, unix.IP_TOS
	if b.dst[i].Family == unix.AF_INET6 {
		c.Level, c.Type = unix.IPPROTO_IPV6, unix.IPV6_TCLASS
	}
	c.SetLen(unix.CmsgLen(4))
	c.class = int32(class)
	h.Control = (*byte)(unsafe.Pointer(c))
	h.SetControllen(int(unsafe.Sizeof(*c)))
}

// add appends a packet to the batch, which has room, and says where it stands.
func (b *batch) add(addr netip.Addr, packet []byte) int {
	i := b.n
	b.n++
	b.iov[i][1].Base = unsafe.SliceData(packet)
	b.iov[i][1].SetLen(len(packet))
	if addr.Is4() {
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&b.dst[i]))
		*sa = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: addr.As4()}
		b.vec[i].hdr.Namelen = unix.SizeofSockaddrInet4
		return i
	}
	b.dst[i] = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: addr.As16()}
	b.vec[i].hdr.Namelen = unix.SizeofSockaddrInet6
	return i
}

func (b *batch) close() error {
	if b.fd < 0 {
		return nil
	}
	return unix.Close(b.fd)
}
