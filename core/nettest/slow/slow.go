// Package slow scales the deadlines of tests for slow machines: an emulated one
// needs some ten times as long as the one that a test was written on. Factor 1,
// the default, changes nothing.
//
//	conn.SetDeadline(time.Now().Add(slow.Time(5 * time.Second)))
//
// What a test waits for, what it grants a peer and what it says that nobody
// should have to wait are deadlines. How often it looks, and what the kernel or
// a protocol has as a constant, are not.
package slow

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"time"
)

// Env is the environment variable with the factor, at least 1.
const Env = "CAPLANCE_SLOW"

var factor = parse(os.Getenv(Env))

// parse panics on nonsense: a typing error must not make tests stricter.
func parse(s string) float64 {
	if s == "" {
		return 1
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !(f >= 1) || math.IsInf(f, 0) {
		panic(fmt.Sprintf("%s=%s: must be a number from 1 on", Env, s))
	}
	return f
}

// Promise returns how long what the product promises within d may take here: d itself
// where the factor is 1. A slow machine, whose figures mean nothing, may do other work at
// the same time, so it gets three times its share.
func Promise(d time.Duration) time.Duration {
	if factor == 1 {
		return d
	}
	return 3 * Time(d)
}

// Time returns how long d is on this machine.
func Time(d time.Duration) time.Duration { return time.Duration(float64(d) * factor) }
