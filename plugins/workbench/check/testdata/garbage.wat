;; Breaks M10: it takes for granted that there are two backends.
(module
  (memory (export "memory") 4 256)
  (global $eligible (mut i32) (i32.const 0))
  (global $picks (mut i32) (i32.const 0))
  (func (export "caplance_abi_v1"))
  (func (export "caplance_buffer") (param $slot i32) (param $size i32) (result i32)
    (i32.const 0))
  (func (export "caplance_backends") (param $count i32) (param $eligible i32) (result i32)
    (global.set $eligible (local.get $eligible))
    (i32.const 0))
  (func (export "caplance_pick") (param $hash i64) (param $flow i32) (result i32)
    (global.set $picks (i32.add (global.get $picks) (i32.const 1)))
    (i32.wrap_i64 (i64.rem_u (local.get $hash) (i64.const 2)))))
