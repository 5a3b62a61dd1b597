;; Breaks M8: it has a buffer for slots that do not exist.
(module
  (memory (export "memory") 4 256)
  (global $eligible (mut i32) (i32.const 0))
  (global $picks (mut i32) (i32.const 0))
  (func (export "caplance_abi_v1"))
  (func (export "caplance_buffer") (param $slot i32) (param $size i32) (result i32)
    (if (result i32) (i32.gt_u (local.get $slot) (i32.const 11)) (then (i32.const 1024)) (else (i32.const 0))))
  (func (export "caplance_backends") (param $count i32) (param $eligible i32) (result i32)
    (global.set $eligible (local.get $eligible))
    (i32.const 0))
  (func (export "caplance_pick") (param $hash i64) (param $flow i32) (result i32)
    (global.set $picks (i32.add (global.get $picks) (i32.const 1)))
    (i32.const 0)))
