;; Starts with more memory than is allowed.
(module
  (memory (export "memory") 300)
  (func (export "caplance_abi_v1"))
  (func (export "caplance_buffer") (param $slot i32) (param $size i32) (result i32) (i32.const 0))
  (func (export "caplance_backends") (param i32 i32) (result i32) (i32.const 0))
  (func (export "caplance_pick") (param i64 i32) (result i32) (i32.const 0)))
