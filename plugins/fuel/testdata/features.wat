;; What WebAssembly 2.0 has, in functions (i32) -> … that a test calls with the
;; numbers 0 to 9, before and after metering.
(module
  (type $pair (func (result i32 i64)))
  (type $unary (func (param i32) (result i32)))
  (memory (export "memory") 1 4)
  (table $t 8 16 funcref)
  (table $x 4 externref)
  (global $g (mut i32) (i32.const 7))
  (global $f funcref (ref.func $double))
  (elem (table $t) (i32.const 1) func $double $factorial)
  (elem $passive func $factorial $double)
  (elem declare func $loop)
  (data (i32.const 8) "metered")
  (data $later "\01\02\03\04\05\06\07\08")

  (func $double (param i32) (result i32) (i32.shl (local.get 0) (i32.const 1)))

  (func $factorial (export "factorial") (param i32) (result i32)
    (if (i32.le_s (local.get 0) (i32.const 1)) (then (return (i32.const 1))))
    (i32.mul (local.get 0) (call $factorial (i32.sub (local.get 0) (i32.const 1)))))

  (func $loop (export "loop") (param i32) (result i32) (local $sum i32)
    (loop $again
      (local.set $sum (i32.add (local.get $sum) (local.get 0)))
      (br_if $again (i32.ge_s (local.tee 0 (i32.sub (local.get 0) (i32.const 1))) (i32.const 0))))
    (local.get $sum))

  (func (export "nested") (param i32) (result i32) (local $i i32) (local $n i32)
    (loop $outer
      (local.set $i (i32.const 0))
      (loop $inner
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $inner (i32.lt_s (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get 0))))
      (br_if $outer (i32.lt_s (local.get $n) (i32.const 50))))
    (local.get $n))

  ;; Every way out of a function that calls others.
  (func (export "ways-out") (param i32) (result i32)
    (block $a
      (block $b
        (block $c
          (br_table $a $b $c $a (local.get 0)))
        (return (call $double (i32.const 3))))
      (if (call $double (local.get 0)) (then (br 2 (i32.const 5)) (unreachable)))
      (unreachable))
    (drop (br_if 0 (i32.const 6) (i32.eq (local.get 0) (i32.const 4))))
    (block $d (result i32)
      (br_table 0 1 (i32.const 11) (i32.sub (local.get 0) (i32.const 5))))
    (drop)
    (loop $l (br_if $l (call $double (i32.const 0))))
    (call $double (i32.const 4)))

  (func $two (param i32) (result i32 i64)
    (if (result i32 i64) (call $double (local.get 0))
      (then (return (local.get 0) (i64.const 2)))
      (else (i32.const 1) (i64.const 3))))
  (func (export "several-results") (param i32) (result i64 i32)
    (call $two (local.get 0))
    (drop) (drop)
    (call $swap (local.get 0))
    (br_if 0 (i32.and (local.get 0) (i32.const 1)))
    (drop) (drop)
    (i64.const 4) (i32.const 5))
  (func $swap (param i32) (result i64 i32)
    (call $double (local.get 0)) (drop)
    (i64.extend_i32_u (local.get 0)) (local.get 0))

  (func (export "typed-blocks") (param i32) (result i32)
    (local.get 0)
    (block (param i32) (result i32) (i32.add (i32.const 1)))
    (loop $l (param i32) (result i32)
      (i32.add (i32.const 3))
      (local.tee 0)
      (br_if $l (i32.lt_s (local.get 0) (i32.const 20))))
    (if (result i32) (i32.eqz (local.get 0)) (then (i32.const 1)) (else (local.get 0)))
    (i32.add))

  (func (export "indirect") (param i32) (result i32)
    (call_indirect $t (type $unary) (i32.const 5) (i32.add (i32.const 1) (i32.and (local.get 0) (i32.const 1)))))

  (func (export "bulk") (param i32) (result i32)
    (memory.fill (i32.const 100) (local.get 0) (i32.const 16))
    (memory.copy (i32.const 108) (i32.const 8) (local.get 0))
    (memory.init $later (i32.const 116) (i32.const 0) (i32.and (local.get 0) (i32.const 7)))
    (drop (memory.grow (i32.const 0)))
    (i32.add (i32.load (i32.const 108)) (i32.load (i32.const 116))))

  (func (export "tables") (param i32) (result i32)
    (table.init $t $passive (i32.const 3) (i32.const 0) (i32.const 2))
    (table.copy $t $t (i32.const 5) (i32.const 1) (i32.const 2))
    (table.fill $t (i32.const 7) (ref.func $loop) (i32.const 1))
    (drop (table.grow $x (ref.null extern) (i32.const 2)))
    (table.set $t (i32.const 0) (table.get $t (i32.const 7)))
    (i32.add (table.size $x)
      (i32.add (ref.is_null (table.get $t (i32.const 0)))
        (call_indirect $t (type $unary) (local.get 0) (i32.and (local.get 0) (i32.const 7))))))

  (func (export "references") (param i32) (result funcref)
    (select (result funcref) (global.get $f) (ref.null func) (local.get 0)))

  (func (export "float") (param i32) (result i32 f64 f32)
    (i32.trunc_sat_f64_s (f64.div (f64.const 1) (f64.convert_i32_s (local.get 0))))
    (f64.sqrt (f64.convert_i32_s (i32.sub (local.get 0) (i32.const 3))))
    (f32.reinterpret_i32 (i32.or (i32.const 0x7f800001) (local.get 0))))

  (func (export "signs") (param i32) (result i64)
    (i64.extend8_s (i64.extend_i32_u (i32.mul (i32.extend16_s (local.get 0)) (i32.const 77)))))

  (func (export "vectors") (param i32) (result i32)
    (local $v v128)
    (local.set $v (i32x4.splat (local.get 0)))
    (local.set $v (i32x4.add (local.get $v) (v128.const i32x4 1 2 3 0x0b0b0b0b)))
    (local.set $v (i8x16.shuffle 0 1 2 3 11 11 11 11 8 9 10 11 12 13 14 15 (local.get $v) (v128.const i64x2 0 0)))
    (v128.store (i32.const 200) (local.get $v))
    (local.set $v (v128.load32_lane 2 (i32.const 8) (local.get $v)))
    (local.set $v (i16x8.shr_s (i64x2.mul (local.get $v) (local.get $v)) (local.get 0)))
    (i32.add (i32x4.extract_lane 1 (local.get $v)) (i32.load (i32.const 204))))

  ;; A state machine: only the steps taken are paid for.
  (func (export "states") (param i32) (result i32) (local $state i32) (local $n i32)
    (loop $next
      (block $c (block $b (block $a
        (br_table $a $b $c (local.get $state)))
        (if (local.get 0)
          (then (block $d (block $e (br_table $d $e (local.get 0))) (nop)) (local.set $n (i32.add (local.get $n) (i32.const 1))))
          (else (local.set $n (i32.add (local.get $n) (i32.const 2)))))
        (local.set $state (i32.const 1)) (br $next))
        (local.set $state (i32.const 2)) (br $next))
      (local.set $n (i32.add (local.get $n) (local.get 0)))
      (local.set $state (i32.const 0))
      (br_if $next (i32.lt_s (local.get $n) (i32.const 100))))
    (local.get $n))

  (func (export "dead-code") (param i32) (result i32)
    (block (return (call $double (local.get 0))) (memory.fill) (loop (br 0)) (return) (drop))
    (unreachable)))
