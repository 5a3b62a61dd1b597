;; A policy whose pick takes as long as it can within its fuel, in the way that
;; the low half of the hash says; slow_test.go has the numbers. The index is an
;; LCG's, so that no prefetcher guesses it.
(module
  (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
  (type $none (func (result i32)))
  (memory (export "memory") 256 256)
  (table $t 65536 65536 funcref)
  (elem (i32.const 0) func $yield)
  (global $x (mut i32) (i32.const 1))

  (func (export "caplance_abi_v1"))
  (func (export "caplance_buffer") (param i32 i32) (result i32) (i32.const 0))
  ;; Pages count once they have been written.
  (func (export "caplance_backends") (param i32 i32) (result i32) (local $at i32)
    (loop $page
      (i32.store (local.get $at) (i32.const 1))
      (br_if $page (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 4096))) (i32.const 0x1000000))))
    (i32.const 0))

  (func (export "caplance_pick") (param $hash i64) (param i32) (result i32) (local $x i32) (local $sum i32)
    (local.set $x (global.get $x))
    (block $table (block $copy (block $fill (block $store (block $vector (block $chase (block $load (block $indirect (block $direct (block $behave
      (br_table $behave $direct $indirect $load $chase $vector $store $fill $copy $table (i32.wrap_i64 (local.get $hash))))
      (return (i32.const 0)))
    (loop $l (drop (call $yield)) (br $l)))
    (loop $l (drop (call_indirect (type $none) (i32.const 0))) (br $l)))
    (loop $l
      (local.set $x (i32.add (i32.mul (local.get $x) (i32.const 1664525)) (i32.const 1013904223)))
      (local.set $sum (i32.add (local.get $sum) (i32.load8_u (i32.shr_u (local.get $x) (i32.const 8)))))
      (global.set $x (local.get $sum))
      (br $l)))
    ;; each address comes out of the load before
    (loop $l
      (local.set $x (i32.add (i32.mul (i32.add (local.get $x) (i32.load8_u (i32.shr_u (local.get $x) (i32.const 8)))) (i32.const 1664525)) (i32.const 1013904223)))
      (br $l)))
    (loop $l
      (local.set $x (i32.add (i32.mul (local.get $x) (i32.const 1664525)) (i32.const 1013904223)))
      (global.set $x (i32x4.extract_lane 0 (v128.load align=1 (i32.and (i32.shr_u (local.get $x) (i32.const 8)) (i32.const 0xffffe0)))))
      (br $l)))
    (loop $l
      (local.set $x (i32.add (i32.mul (local.get $x) (i32.const 1664525)) (i32.const 1013904223)))
      (i32.store (i32.and (i32.shr_u (local.get $x) (i32.const 8)) (i32.const 0xffffe0)) (local.get $x))
      (br $l)))
    (loop $l
      (local.set $x (i32.add (i32.mul (local.get $x) (i32.const 1664525)) (i32.const 1013904223)))
      (memory.fill (i32.and (i32.shr_u (local.get $x) (i32.const 8)) (i32.const 0xffffe0)) (i32.const 0) (i32.const 1))
      (br $l)))
    (loop $l
      (local.set $x (i32.add (i32.mul (local.get $x) (i32.const 1664525)) (i32.const 1013904223)))
      (memory.copy (i32.and (i32.shr_u (local.get $x) (i32.const 8)) (i32.const 0xffffe0))
        (i32.and (i32.add (local.get $x) (i32.const 0x654321)) (i32.const 0xffffe0)) (i32.const 7))
      (br $l)))
    (loop $l
      (local.set $x (i32.add (i32.mul (local.get $x) (i32.const 1664525)) (i32.const 1013904223)))
      (global.set $x (ref.is_null (table.get $t (i32.shr_u (local.get $x) (i32.const 16)))))
      (br $l))
    (unreachable)))
