;; Imported globals come before the module's own, and a start function runs
;; before anyone can set a budget.
(module
  (import "env" "base" (global $base i32))
  (global $n (mut i32) (i32.const 1))
  (memory 1)
  (data (global.get $base) "x")
  (func $start (global.set $n (i32.add (global.get $base) (i32.load8_u (global.get $base)))))
  (func (export "n") (param i32) (result i32) (global.get $n))
  (start $start))
