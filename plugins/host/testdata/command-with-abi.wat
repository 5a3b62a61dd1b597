;; As Go without -buildmode=c-shared: the whole ABI, and _start instead of _initialize.
(module
  (memory (export "memory") 1 1)
  (global $n (mut i32) (i32.const 0))
  (func (export "caplance_abi_v1"))
  ;; slot buffers: 2=FLOW 3=BACKENDS; all static, 64 KiB page: backends at 1024, flow at 512
  (func (export "caplance_buffer") (param $slot i32) (param $size i32) (result i32)
    (if (i32.eq (local.get $slot) (i32.const 2)) (then (return (i32.const 512))))
    (if (i32.eq (local.get $slot) (i32.const 3)) (then
      (return (select (i32.const 1024) (i32.const 0) (i32.le_u (local.get $size) (i32.const 64512))))))
    (i32.const 0))
  (func (export "caplance_backends") (param $count i32) (param $eligible i32) (result i32)
    (global.set $n (local.get $eligible)) (i32.const 0))
  (func (export "caplance_pick") (param $hash i64) (param $flow i32) (result i32)
    (if (i32.eqz (global.get $n)) (then (return (i32.const -1))))
    (i32.wrap_i64 (i64.rem_u (local.get $hash) (i64.extend_i32_u (global.get $n)))))
  (func (export "_start"))
)
