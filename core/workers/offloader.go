package workers

import (
	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/fastpath"
)

// offloader is a worker's way to a fast path that may be turned on and off.
type offloader struct {
	kernel func() *fastpath.Balancer
	of     *fastpath.Balancer
	to     *fastpath.Offloader
}

// current returns the offloader of the fast path that is on, or nil.
func (o *offloader) current() *fastpath.Offloader {
	if b := o.kernel(); b != o.of {
		o.of, o.to = b, nil
		if b != nil {
			o.to = b.Offloader()
		}
	}
	return o.to
}

// Add implements datapath.Offloader.
func (o *offloader) Add(k *core.FlowKey, service core.ServiceID, h core.Handle, packets, bytes uint64) bool {
	to := o.current()
	return to != nil && to.Add(k, service, h, packets, bytes)
}

// Flush implements datapath.Offloader.
func (o *offloader) Flush() {
	if to := o.current(); to != nil {
		to.Flush()
	}
}

// Find implements datapath.Offloader.
func (o *offloader) Find(k *core.FlowKey) (core.Handle, bool) {
	if to := o.current(); to != nil {
		return to.Find(k)
	}
	return 0, false
}

// Delete implements datapath.Offloader.
func (o *offloader) Delete(k *core.FlowKey) {
	if b := o.kernel(); b != nil {
		b.Delete(k)
	}
}
