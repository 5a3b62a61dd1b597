;; A guest that reports what it is told: flow ends, ticks and bytes in METRICS.
;; It picks the backend whose index is the attempt.
(module
  (memory (export "memory") 1 1)
  ;; FLOW at 512, METRICS at 1024, END at 1280, NAMES at 2048
  (data (i32.const 2048) "ends\00ticks\00bytes\00last\00")
  (func (export "caplance_abi_v1"))
  (func (export "caplance_buffer") (param $slot i32) (param $size i32) (result i32)
    (if (i32.eq (local.get $slot) (i32.const 2)) (then (return (i32.const 512))))
    (if (i32.eq (local.get $slot) (i32.const 8)) (then (return (i32.const 1280))))
    (if (i32.eq (local.get $slot) (i32.const 9)) (then (return (i32.const 1024))))
    (if (i32.eq (local.get $slot) (i32.const 11)) (then (return (i32.const 2048))))
    (i32.const 0))
  (func (export "caplance_backends") (param $count i32) (param $eligible i32) (result i32) (i32.const 0))
  (func (export "caplance_pick") (param $hash i64) (param $flow i32) (result i32)
    (i32.load offset=76 (local.get $flow)))
  (func (export "caplance_flow_end") (param $backend i32) (param $end i32)
    (i64.store (i32.const 1024) (i64.add (i64.load (i32.const 1024)) (i64.const 1)))
    (i64.store (i32.const 1040) (i64.add (i64.load (i32.const 1040)) (i64.load offset=8 (local.get $end))))
    (i64.store (i32.const 1048) (i64.extend_i32_s (local.get $backend))))
  (func (export "caplance_tick") (param $now i64)
    (i64.store (i32.const 1032) (i64.add (i64.load (i32.const 1032)) (i64.const 1)))))
