// Package flow remembers which backend each flow goes to. A table belongs to
// one worker: no method may run beside another, and none locks or allocates
// after New.
//
//	e := t.Find(&key, hash)
//	if e == nil {
//		e = t.Insert(&key, hash, now) // nil when the table is full of established flows
//	}
//	t.Touch(e, tcpFlags, size, now)
package flow

import (
	"time"

	"github.com/caplance/caplance/core"
)

// State is how far a flow has come, as seen from the client's side alone.
type State uint8

// The states of a flow. Eviction takes Pending flows first, then Closing ones,
// and never an Established one.
const (
	free        State = iota
	Pending           // SYNs only, or one datagram: it may be a flood's
	Closing           // FIN or RST seen: lingers for the last packets
	Established       // the client went on after its first packet
	states
)

var stateNames = [states]string{"free", "pending", "closing", "established"}

func (s State) String() string { return stateNames[s] }

// Entry is one flow, 80 bytes.
type Entry struct {
	Key     core.FlowKey
	Service uint16
	Backend core.Handle
	Created uint32 // ms since the table's epoch
	Seen    uint32 // the same, of the last packet
	Packets uint32
	hash    uint32 // low half: the home slot, and what tells neighbours apart
	prev    uint32 // neighbours in the list of its state;
	next    uint32 // in a free entry, the next free one
	State   State
	Kernel  bool // the kernel forwards its packets, this is but a memo; the owner sets it
	Bytes   uint64
}

// Timeouts are the idle times after which a flow ends.
type Timeouts struct {
	TCP    time.Duration // established
	TCPSyn time.Duration // pending
	TCPFin time.Duration // closing
	UDP    time.Duration
}

// MaxCapacity is the largest table: an index slot has 24 bits for the entry's
// number and 8 for a tag of its hash.
const MaxCapacity = 1<<24 - 1

const none = ^uint32(0)

// Table maps flow keys to entries by open addressing over a slab, so that an
// entry never moves while its flow lives.
type Table struct {
	entries []Entry
	index   []uint32 // tag<<24 | entry number + 1, 0 = empty; linear probing
	mask    uint32
	used    uint32 // entries[:used] have been in use
	freed   uint32 // head of the list of free entries
	live    int
	lists   [states]list
	cursor  uint32 // where the next Sweep goes on
	timeout [states][2]uint32
	gone    func(*Entry)

	Evicted uint64 // flows that gave way to new ones
	Refused uint64 // new flows for which none would
}

// list is a queue of entries, the oldest at head.
type list struct{ head, tail uint32 }

// New makes a table for at most capacity flows. Its memory is reserved at once
// and becomes resident as flows fill it. gone, if not nil, is told of every
// flow that ends, just before its entry is reused.
func New(capacity int, t Timeouts, gone func(*Entry)) *Table {
	capacity = min(capacity, MaxCapacity)
	slots := 1
	for slots < capacity*2 {
		slots *= 2
	}
	if gone == nil {
		gone = func(*Entry) {}
	}
	tab := &Table{
		entries: make([]Entry, capacity),
		index:   make([]uint32, slots),
		mask:    uint32(slots - 1),
		freed:   none,
		gone:    gone,
	}
	for i := range tab.lists {
		tab.lists[i] = list{none, none}
	}
	ms := func(d time.Duration) uint32 { return uint32(d / time.Millisecond) }
	tab.timeout[Pending] = [2]uint32{ms(t.TCPSyn), ms(t.UDP)}
	tab.timeout[Closing] = [2]uint32{ms(t.TCPFin), ms(t.UDP)}
	tab.timeout[Established] = [2]uint32{ms(t.TCP), ms(t.UDP)}
	return tab
}

// Len is the number of flows.
func (t *Table) Len() int { return t.live }

// Cap is the number of flows that fit.
func (t *Table) Cap() int { return len(t.entries) }

// Find is the flow's entry, or nil. hash must be the same at every call with
// the same key.
func (t *Table) Find(k *core.FlowKey, hash uint64) *Entry {
	tag := uint32(hash>>56) << 24
	for at := uint32(hash) & t.mask; t.index[at] != 0; at = (at + 1) & t.mask {
		if v := t.index[at]; v&^MaxCapacity == tag {
			if e := &t.entries[v&MaxCapacity-1]; e.Key == *k {
				return e
			}
		}
	}
	return nil
}

// Insert makes a Pending entry for a key that the table does not hold. A full
// table evicts its oldest pending or else its oldest closing flow; when all
// are established it returns nil.
func (t *Table) Insert(k *core.FlowKey, hash uint64, now uint32) *Entry {
	n := t.take()
	if n == none {
		t.Refused++
		return nil
	}
	at := uint32(hash) & t.mask
	for t.index[at] != 0 {
		at = (at + 1) & t.mask
	}
	t.index[at] = uint32(hash>>56)<<24 | (n + 1)
	e := &t.entries[n]
	*e = Entry{Key: *k, Created: now, Seen: now, hash: uint32(hash), State: Pending}
	t.live++
	t.push(n)
	return e
}

// take is the number of an entry to use.
func (t *Table) take() uint32 {
	if t.freed == none && int(t.used) < len(t.entries) {
		t.used++
		return t.used - 1
	}
	if t.freed == none {
		victim := t.lists[Pending].head
		if victim == none {
			victim = t.lists[Closing].head
		}
		if victim == none {
			return none
		}
		if !t.entries[victim].Kernel {
			t.Evicted++
		}
		t.Remove(&t.entries[victim])
	}
	n := t.freed
	t.freed = t.entries[n].next
	return n
}

// Remove ends a flow. Its entry must not be used afterwards.
func (t *Table) Remove(e *Entry) {
	t.gone(e)
	at := e.hash & t.mask
	for n := t.number(e) + 1; t.index[at]&MaxCapacity != n; {
		at = (at + 1) & t.mask
	}
	t.unlink(e)
	t.vacate(at)
	n := t.number(e)
	*e = Entry{next: t.freed}
	t.freed = n
	t.live--
}

// vacate empties a slot of the index and moves what follows it nearer home
// (Knuth, TAOCP 6.4, algorithm R).
func (t *Table) vacate(at uint32) {
	hole := at
	for {
		at = (at + 1) & t.mask
		v := t.index[at]
		if v == 0 {
			break
		}
		home := t.entries[v&MaxCapacity-1].hash & t.mask
		if (at-home)&t.mask >= (at-hole)&t.mask {
			t.index[hole] = v
			hole = at
		}
	}
	t.index[hole] = 0
}

// number is e's place in entries, from what the lists and the index know of it.
func (t *Table) number(e *Entry) uint32 { return entryNumber(t.entries, e) }

// push appends an entry to the list of its state.
func (t *Table) push(n uint32) {
	e := &t.entries[n]
	l := &t.lists[e.State]
	e.prev, e.next = l.tail, none
	if l.tail == none {
		l.head = n
	} else {
		t.entries[l.tail].next = n
	}
	l.tail = n
}

// unlink takes an entry out of the list of its state.
func (t *Table) unlink(e *Entry) {
	l := &t.lists[e.State]
	if e.prev == none {
		l.head = e.next
	} else {
		t.entries[e.prev].next = e.next
	}
	if e.next == none {
		l.tail = e.prev
	} else {
		t.entries[e.next].prev = e.prev
	}
}
