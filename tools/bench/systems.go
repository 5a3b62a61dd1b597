package main

import "context"

// system is one way from the client to the backend.
type system struct {
	name  string
	setUp func(context.Context, *testbed) error // nil: there is nothing between the two
	noUDP bool
	xdp   bool // in a network where XDP works, which costs the client its checksum offload
}

// The systems that goals are about.
const (
	none   = "none"
	direct = "caplance tc/direct"
	tunnel = "caplance tc/tunnel"
	table  = "caplance tc/table"
	natted = "nftables DNAT"
	proxy  = "HAProxy"
)

// systems are what is compared, in the order of the table. To add one, write
// a function that makes testbed.to lead to the backend's ports (testbed.go), and name
// it here. A function that returns a skip leaves its system out.
var systems = []system{
	{name: none},
	{name: direct, setUp: caplance{kind: "tc", mode: "direct", policy: "round-robin"}.setUp},
	{name: tunnel, setUp: caplance{kind: "tc", mode: "tunnel", policy: "round-robin"}.setUp},
	{name: table, setUp: caplance{kind: "tc", mode: "tunnel", policy: "maglev"}.setUp},
	{name: "caplance userspace", setUp: caplance{kind: "userspace", mode: "tunnel", policy: "round-robin"}.setUp},
	{name: natted, setUp: dnat},
	{name: proxy, setUp: haproxy, noUDP: true},
	{name: "nginx stream", setUp: nginx},

	{name: none, xdp: true},
	{name: "caplance xdp/direct", xdp: true, setUp: caplance{kind: "xdp", mode: "direct", policy: "round-robin"}.setUp},
}
