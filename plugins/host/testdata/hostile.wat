;; A policy that does what the low half of the hash says; safety_test.go has
;; the numbers.
(module
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_unlink_file" (func $unlink (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1 256)
  (table $t 1 funcref)
  (global $picks (mut i32) (i32.const 0))

  (func (export "caplance_abi_v1"))
  (func (export "caplance_buffer") (param i32 i32) (result i32) (i32.const 0))
  ;; Pools of 13 to 15 backends are misused, too.
  (func (export "caplance_backends") (param $count i32) (param i32) (result i32)
    (if (i32.eq (local.get $count) (i32.const 13)) (then (call $spin)))
    (if (i32.eq (local.get $count) (i32.const 14)) (then (call $dive)))
    (if (i32.eq (local.get $count) (i32.const 15)) (then (call $hog)))
    (i32.const 0))
  (func (export "caplance_flow_end") (param i32 i32) (call $spin))
  (func (export "caplance_tick") (param i64) (call $spin))

  (func $spin (loop $l (br $l)))
  (func $dive (call $dive))
  (func $hog
    (drop (memory.grow (i32.const 255)))
    (loop $l
      (memory.fill (i32.const 0) (i32.const 1) (i32.shl (memory.size) (i32.const 16)))
      (br $l)))

  (func $do (param $what i32) (result i32)
    (block $nan64 (block $nan (block $third (block $exit (block $path (block $write (block $random
    (block $table (block $grow (block $hog (block $dive (block $spin (block $behave
      (br_table $behave $spin $dive $hog $grow $table $random $write $path $exit $third $nan $nan64 (local.get $what)))
      (return (i32.const 0)))
      (call $spin) (return (i32.const 0)))
      (call $dive) (return (i32.const 0)))
      (call $hog) (return (i32.const 0)))
      (drop (memory.grow (i32.const 1))) (return (i32.const 0)))
      (drop (table.grow $t (ref.null func) (i32.const 1000000000))) (return (i32.const 0)))
      (drop (memory.grow (i32.const 255)))
      (return (i32.mul (i32.const 0) (call $random_get (i32.const 0) (i32.const 16000000)))))
      (return (call $fd_write (i32.const 1) (i32.const 0) (i32.const 8000) (i32.const 0))))
      (drop (memory.grow (i32.const 255)))
      (return (i32.mul (i32.const 0) (call $unlink (i32.const 3) (i32.const 0) (i32.const 16000000)))))
      (call $exit (i32.const 0)) (unreachable))
      (if (i32.eqz (i32.rem_u (global.get $picks) (i32.const 3))) (then (unreachable)))
      (return (i32.const 0)))
      ;; a NaN made by arithmetic, as the processor likes to have it
      (return (i32.reinterpret_f32 (f32.div (f32.const 0) (f32.const 0)))))
    ;; a signalling NaN with a payload that looks like an index in its low half
    (i32.wrap_i64 (i64.reinterpret_f64 (f64.add (f64.reinterpret_i64 (i64.const 0x7ff0000000000063)) (f64.const 1)))))

  (func (export "caplance_pick") (param $hash i64) (param i32) (result i32)
    (global.set $picks (i32.add (global.get $picks) (i32.const 1)))
    (call $do (i32.wrap_i64 (local.get $hash)))))
