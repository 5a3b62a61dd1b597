//go:build !wasip1

package caplance

// Register does nothing outside of the balancer: tests call the policy.
func Register(Policy) {}
