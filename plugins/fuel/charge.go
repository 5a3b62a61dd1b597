package fuel

// Instructions that are inserted (§5.4).
const (
	opUnreachable = 0x00
	opBlock       = 0x02
	opIf          = 0x04
	opEnd         = 0x0b
	opBr          = 0x0c
	opLocalGet    = 0x20
	opLocalTee    = 0x22
	opGlobalGet   = 0x23
	opGlobalSet   = 0x24
	opI64Const    = 0x42
	opI64LtS      = 0x53
	opI64Add      = 0x7c
	opI64Sub      = 0x7d
	opI64Shl      = 0x86
	opI64ShrU     = 0x88
	opI64ExtendU  = 0xad // i64.extend_i32_u
)

// inserter writes the inserted code of one function.
type inserter struct {
	writer
	fuel, depth uint32 // globals
	rest        uint32 // local, i64: what is left of a budget
	length      uint32 // local, i32: the operand of an instruction on a run
}

func (w *inserter) op(code byte, index uint32) {
	w.byte(code)
	w.u32(index)
}

func (w *inserter) constant(v int64) {
	w.byte(opI64Const)
	w.s64(v)
}

// take emits
//
//	(local.set $rest (i64.sub (global.get $budget) amount))
//	(global.set $budget (local.get $rest))
//	(if (i64.lt_s (local.get $rest) (i64.const 0)) (then unreachable))
//
// and leaves the operand stack as it is. A budget goes below zero once and by
// less than 2⁴⁶, so it cannot wrap around.
func (w *inserter) take(budget uint32, amount func()) {
	w.op(opGlobalGet, budget)
	amount()
	w.byte(opI64Sub)
	w.op(opLocalTee, w.rest)
	w.op(opGlobalSet, budget)
	w.op(opLocalGet, w.rest)
	w.constant(0)
	w.byte(opI64LtS, opIf, typeEmpty, opUnreachable, opEnd)
}

// charge takes a fixed amount of fuel.
func (w *inserter) charge(cost uint64) {
	w.take(w.fuel, func() { w.constant(int64(cost)) })
}

// chargeRun takes fuel for the i32 on top of the stack, and leaves it there.
func (w *inserter) chargeRun(shift int) {
	w.op(opLocalTee, w.length)
	w.take(w.fuel, func() {
		w.op(opLocalGet, w.length)
		w.byte(opI64ExtendU)
		switch {
		case shift > 0:
			w.constant(int64(shift))
			w.byte(opI64ShrU)
		case shift < 0:
			w.constant(int64(-shift))
			w.byte(opI64Shl)
		}
	})
}

// descend takes one from the depth, ascend gives it back.
func (w *inserter) descend() {
	w.take(w.depth, func() { w.constant(1) })
}

func (w *inserter) ascend() {
	w.op(opGlobalGet, w.depth)
	w.constant(1)
	w.byte(opI64Add)
	w.op(opGlobalSet, w.depth)
}
