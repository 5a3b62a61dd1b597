;; Table mode: slot i leads to backend i modulo the eligible ones. Pools of
;; 3 backends get a slot too high, of 4 one that is never done, of 5 no slot
;; for the last one.
(module
  (memory (export "memory") 4 4)
  (global $n (mut i32) (i32.const 0))
  (global $calls (mut i32) (i32.const 0))
  (func (export "caplance_abi_v1"))
  (func (export "caplance_buffer") (param $slot i32) (param $size i32) (result i32)
    (select (i32.const 1024) (i32.const 0) (i32.eq (local.get $slot) (i32.const 7))))
  (func (export "caplance_backends") (param $count i32) (param $eligible i32) (result i32)
    (global.set $n (local.get $eligible)) (i32.const 0))
  (func (export "caplance_pick") (param $hash i64) (param $flow i32) (result i32) (i32.const -3))
  (func (export "caplance_table") (param $size i32) (result i32)
    (local $i i32) (local $mod i32)
    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    (if (i32.eq (global.get $n) (i32.const 4)) (then (return (i32.const 1))))
    (if (i32.lt_u (global.get $calls) (i32.const 3)) (then (return (i32.const 1))))
    (local.set $mod (global.get $n))
    (if (i32.eq (global.get $n) (i32.const 3)) (then (local.set $mod (i32.const 4))))
    (if (i32.eq (global.get $n) (i32.const 5)) (then (local.set $mod (i32.const 4))))
    (loop $next
      (i32.store16 offset=1024 (i32.mul (local.get $i) (i32.const 2)) (i32.rem_u (local.get $i) (local.get $mod)))
      (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $size))))
    (i32.const 0)))
