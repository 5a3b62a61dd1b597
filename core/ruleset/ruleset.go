// Package ruleset is the only place that touches nftables. What a table is to
// hold is worked out from plain values, without I/O; a target compares it with
// what the kernel has and changes the difference. Capture is the balancer's
// part of the desired state, Clamp the agent's.
//
//	target := ruleset.NewCapture()
//	err := target.Add(ctx, nil, &ruleset.Capture{
//		Services:   []ruleset.Service{{VIP: vip, Proto: core.ProtoTCP, Ports: ports}},
//		FirstQueue: 1337, Queues: 4, TunnelPort: 1337,
//	})
//
// A VIP, a protocol and a range of ports are elements of sets, so that rules do
// not become more with the services, and a change of services changes elements
// only. A table is never made anew: when a chain with a hook goes away, the
// kernel drops the packets that wait in any NFQUEUE of the network namespace
// (nf_queue_nf_hook_drop), whoever owns the chain and the queue.
//
// Every rule has a comment that says what it does and is compared in its place.
// From Linux 6.9 on the tables belong to the process, and nobody else can change
// or flush them. Before, a change by somebody else is a drift.
package ruleset

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
)

// Table is the name of the balancer's table, in the families ip and ip6. Two
// tables, because the xt target is not to be had in family inet.
const Table = "caplance"

// ClampTable is the name of the agent's table, in the families ip and ip6.
const ClampTable = "caplance-agent"

// Remove deletes the balancer's tables, if they are there. It drops the packets
// that wait in the NFQUEUEs of the network namespace.
func Remove() error { return removeTables(Table) }

// RemoveClamp deletes the agent's tables, if they are there.
func RemoveClamp() error { return removeTables(ClampTable) }

// removeTables deletes a table in both families at once, where it is there. To
// add it first, so that it is, fails for one that persists.
func removeTables(name string) error {
	conn, err := connect()
	if err != nil {
		return err
	}
	for _, f := range families {
		table := &nftables.Table{Family: f.table, Name: name}
		there, err := exists(conn, table)
		if err != nil {
			return err
		}
		if there {
			conn.DelTable(table)
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("nftables table %s: delete: %w", name, err)
	}
	return nil
}

// Tables lists the nftables tables of this network namespace, "family name"
// each.
func Tables() ([]string, error) {
	conn, err := connect()
	if err != nil {
		return nil, err
	}
	list, err := conn.ListTables()
	if err != nil {
		return nil, fmt.Errorf("nftables tables: %w", err)
	}
	var out []string
	for _, t := range list {
		out = append(out, fmt.Sprintf("%d %s", t.Family, t.Name))
	}
	return out, nil
}

// The sizes of the sockets' buffers, bytes: a batch is one message of the
// socket, and has an acknowledgement for each of its parts.
const (
	sendBuffer    = 16 << 20
	receiveBuffer = 16 << 20
)

// batchTimeout is how long the kernel may take for one batch.
const batchTimeout = time.Minute

// connect returns a connection whose every operation opens a socket with
// enlarged buffers in the network namespace of the calling thread.
func connect() (*nftables.Conn, error) {
	conn, err := nftables.New(nftables.WithSockOptions(enlarge))
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	return conn, nil
}

func enlarge(c *netlink.Conn) error {
	return errors.Join(c.SetWriteBuffer(sendBuffer), c.SetReadBuffer(receiveBuffer), c.SetDeadline(time.Now().Add(batchTimeout)))
}
