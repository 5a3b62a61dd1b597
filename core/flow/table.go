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

// The states of a flow. Eviction takes Offloaded ones first, then Pending and
// Closing ones, and never an Established one.
const (
	free        State = iota
	Offloaded         // the kernel forwards its packets: a memo for those on their way
	Pending           // SYNs only, or one datagram: it may be a flood's
	Closing           // FIN or RST seen: lingers for the last packets
	Established       // the client went on after its first packet
	states
)

var stateNames = [states]string{"free", "offloaded", "pending", "closing", "established"}

func (s State) String() string { return stateNames[s] }

// Entry is one flow, 96 bytes.
type Entry struct {
	Key     core.FlowKey
	Service core.ServiceID
	Backend core.Handle
	Created uint32 // ms since the table's epoch
	Seen    uint32 // the same, of the last packet
	Packets uint32
	hash    uint32 // low half: the home slot, and what tells neighbours apart
	prev    uint32 // neighbours in the list of its state;
	next    uint32 // in a free entry, the next free one
	expect  uint32 // sequence number after the client's last segment; 0: not known
	Ack     uint32 // what the client acknowledged last; 0: not known
	State   State

	Half     bool // closing by FIN: the other direction may go on
	Reopened bool // a SYN came while it was there
	Tells    bool // its backend tells of its connections; the owner sets it
	Asked    bool // the owner has asked it about this one
	Proven   bool // its backend said that the connection is there
	Ended    bool // its backend said that it ended; the owner sets it
	Over     bool // its end has been counted; the owner sets it

	Bytes uint64
}

// Kernel reports whether the kernel forwards the flow's packets.
func (e *Entry) Kernel() bool { return e.State == Offloaded }

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
	limits  limits
	own     []limits // by ServiceID; others have limits
	gone    func(*Entry)

	// Strict keeps flows Pending that nobody has proven, of backends that tell of
	// their connections. The owner sets it while the table fills.
	Strict bool

	Evicted uint64 // flows that gave way to new ones
	Refused uint64 // new flows for which none would
}

// list is a queue of entries, the oldest at head.
type list struct{ head, tail uint32 }

// New makes a table for at most capacity flows. Its memory is reserved at once
// and becomes resident as flows fill it. gone, if not nil, gets
// every flow that ends, just before its entry is reused.
func New(capacity int, t *core.IdleTimeouts, gone func(*Entry)) *Table {
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
	tab.SetTimeouts(t)
	return tab
}

// limits are idle times, ms.
type limits struct {
	timeout [states][2]uint32
	half    uint32
}

func limitsOf(to *core.Timeouts) (l limits) {
	ms := func(d time.Duration) uint32 { return uint32(d / time.Millisecond) }
	l.half = ms(to.TCPHalfClosed)
	l.timeout[Offloaded] = [2]uint32{ms(to.TCPSyn), ms(to.UDP)}
	l.timeout[Pending] = [2]uint32{ms(to.TCPSyn), ms(to.UDP)}
	l.timeout[Closing] = [2]uint32{ms(to.TCPFin), ms(to.UDP)}
	l.timeout[Established] = [2]uint32{ms(to.TCP), ms(to.UDP)}
	return l
}

// SetTimeouts changes the idle times of all flows.
func (t *Table) SetTimeouts(to *core.IdleTimeouts) {
	t.limits, t.own = limitsOf(&to.All), nil
	for i := range to.By {
		t.own = append(t.own, limitsOf(&to.By[i]))
	}
}

// Adopt takes over the flows of another table with the same hash, which is not
// to be used afterwards. Established flows come first; what finds no room is
// passed to lost.
func (t *Table) Adopt(from *Table, lost func(*Entry)) {
	for _, state := range []State{Established, Closing, Pending, Offloaded} {
		for n := from.lists[state].head; n != none; n = from.entries[n].next {
			e := &from.entries[n]
			if !t.Put(e, uint64(e.hash)|uint64(from.tagOf(n))<<56) {
				lost(e)
			}
		}
	}
}

// Put adds a copy of another table's entry, unless the table is full.
func (t *Table) Put(e *Entry, hash uint64) bool {
	if t.live == len(t.entries) {
		return false
	}
	to := t.Insert(&e.Key, hash, e.Created)
	if to == nil {
		return false
	}
	t.unlink(to)
	keep := *to
	*to = *e
	to.hash, to.prev, to.next = keep.hash, none, none
	t.push(t.number(to))
	return true
}

// tagOf returns the tag that the index has for an entry.
func (t *Table) tagOf(n uint32) uint8 {
	at := t.entries[n].hash & t.mask
	for t.index[at]&MaxCapacity != n+1 {
		at = (at + 1) & t.mask
	}
	return uint8(t.index[at] >> 24)
}

// Len returns the number of flows.
func (t *Table) Len() int { return t.live }

// Cap returns the number of flows that fit.
func (t *Table) Cap() int { return len(t.entries) }

// Find returns the flow's entry, or nil. hash must be the same at every call with
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
// table evicts its oldest memo, or else its oldest pending or closing flow; when
// all are established it returns nil.
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

// take returns the number of an entry to use.
func (t *Table) take() uint32 {
	if t.freed == none && int(t.used) < len(t.entries) {
		t.used++
		return t.used - 1
	}
	if t.freed == none {
		victim := none
		for s := Offloaded; s < Established && victim == none; s++ {
			victim = t.lists[s].head
		}
		if victim == none {
			return none
		}
		if !t.entries[victim].Kernel() {
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

// number returns e's place in entries, from what the lists and the index know of it.
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
