package simulate

import "github.com/caplance/caplance/core"

// end is a flow that is open.
type end struct {
	at             uint64 // ns
	tally          *tally
	handle         core.Handle
	worker         int
	packets, lasts float64
}

// ends is a binary heap, the next end first. container/heap would allocate for
// each flow.
type ends []end

func (h *ends) push(e end) {
	*h = append(*h, e)
	q := *h
	for i := len(q) - 1; i > 0; {
		up := (i - 1) / 2
		if q[up].at <= q[i].at {
			return
		}
		q[up], q[i] = q[i], q[up]
		i = up
	}
}

func (h *ends) pop() end {
	q := *h
	first := q[0]
	last := len(q) - 1
	q[0] = q[last]
	q[last] = end{}
	*h = q[:last]
	h.sink(0)
	return first
}

// init restores the order after entries were taken out.
func (h *ends) init() {
	for i := len(*h)/2 - 1; i >= 0; i-- {
		h.sink(i)
	}
}

func (h *ends) sink(i int) {
	q := *h
	for {
		low := 2*i + 1
		if low >= len(q) {
			return
		}
		if low+1 < len(q) && q[low+1].at < q[low].at {
			low++
		}
		if q[i].at <= q[low].at {
			return
		}
		q[i], q[low] = q[low], q[i]
		i = low
	}
}
