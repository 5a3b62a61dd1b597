;; Fails on every pool.
(module
  (memory (export "memory") 1 1)
  (func (export "caplance_abi_v1"))
  (func (export "caplance_buffer") (param i32 i32) (result i32) (i32.const 0))
  (func (export "caplance_backends") (param i32 i32) (result i32) unreachable)
  (func (export "caplance_pick") (param i64 i32) (result i32) (i32.const 0)))
