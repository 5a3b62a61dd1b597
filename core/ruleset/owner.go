package ruleset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Flags of a table (linux/netfilter/nf_tables.h). While the socket is open that
// made a table with tableOwner (Linux 5.12), nobody else can change the table,
// and flushing the ruleset leaves it alone. With tablePersist (6.9) it outlives
// the socket, and whoever comes next can own it.
const (
	tableOwner   = 0x2
	tablePersist = 0x4
)

// owner is a socket that owns the tables of a name. Without one, a packet that
// comes between somebody's `nft flush ruleset` and the repair goes to the host,
// which resets its connection.
type owner struct {
	conn *nftables.Conn
	raw  *netlink.Conn
}

// errUnowned is returned by own where nobody can own the tables: the kernel is
// older than 6.9, or they were made by somebody who did not.
var errUnowned = errors.New("nftables tables cannot have an owner (Linux 6.9): others can change them")

// own makes the tables of a name, if they are not there, and owns them.
func own(name string) (*owner, error) {
	o := &owner{}
	note := func(c *netlink.Conn) error {
		o.raw = c
		return enlarge(c)
	}
	var err error
	if o.conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(note)); err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	switch err = o.claim(name); {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL):
		err = errUnowned
	case errors.Is(err, unix.EPERM):
		err = fmt.Errorf("nftables table %s: another process owns it, and has not ended: %w", name, err)
	case err != nil:
		err = fmt.Errorf("nftables table %s: %w", name, err)
	}
	if err != nil {
		return nil, errors.Join(err, o.close())
	}
	return o, nil
}

// claim sends the batch that the library has no words for.
func (o *owner) claim(name string) error {
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_TABLE_NAME, Data: []byte(name + "\x00")},
		{Type: unix.NFTA_TABLE_FLAGS, Data: binary.BigEndian.AppendUint32(nil, tableOwner|tablePersist)},
	})
	if err != nil {
		return err
	}
	msgs := []netlink.Message{message(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil)}
	for _, f := range families {
		msgs = append(msgs, message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWTABLE, netlink.Create|netlink.Acknowledge, byte(f.table), 0, attrs))
	}
	msgs = append(msgs, message(unix.NFNL_MSG_BATCH_END, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil))
	if _, err := o.raw.SendMessages(msgs); err != nil {
		return err
	}
	for range families {
		if _, err := o.raw.Receive(); err != nil {
			return err
		}
	}
	return nil
}

// message returns one of nfnetlink's (struct nfgenmsg, linux/netfilter/nfnetlink.h).
func message(kind uint16, flags netlink.HeaderFlags, family byte, resource uint16, attrs []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request | flags},
		Data:   append(binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource), attrs...),
	}
}

// use returns the connection, with time for another batch.
func (o *owner) use() (*nftables.Conn, error) {
	return o.conn, o.raw.SetDeadline(time.Now().Add(batchTimeout))
}

// close gives the tables up; they stay as they are.
func (o *owner) close() error { return o.conn.CloseLasting() }

// CanOwn returns nil where tables can have an owner.
func CanOwn() error {
	const scratch = Table + "-probe"
	o, err := own(scratch)
	if err != nil {
		return err
	}
	return errors.Join(o.close(), removeTables(scratch))
}
