package main

import "context"

// load is one way to use a system; it comes to a value for each metric.
type load struct {
	name    string // for -only
	metrics []metric
	measure func(context.Context, *testbed) ([]float64, error)
	suits   func(system) bool
}

type metric struct{ name, unit string }

// The metrics' names.
const (
	metricStream  = "one TCP stream"
	metricStreams = "eight TCP streams"
	metricSmall   = "one TCP stream, MTU-size packets"
	metricXDP     = "one TCP stream, XDP's conditions"
	metricConns   = "new connections"
	metricConn50  = "new connection, p50"
	metricConn99  = "new connection, p99"
	metricUDP     = "UDP packets of 64 bytes"
	metricCPU     = "CPU per UDP packet"
	metricRTT50   = "round trip, p50"
	metricRTT99   = "round trip, p99"
)

func usual(s system) bool   { return !s.xdp }
func withUDP(s system) bool { return !s.xdp && !s.noUDP }
func withXDP(s system) bool { return s.xdp }

var loads = []load{
	{"stream", []metric{{metricStream, "Mbit/s"}}, oneStream, usual},
	{"streams", []metric{{metricStreams, "Mbit/s"}}, eightStreams, usual},
	{"small", []metric{{metricSmall, "Mbit/s"}}, smallStream, usual},
	{"connections", []metric{{metricConns, "1/s"}, {metricConn50, "µs"}, {metricConn99, "µs"}}, newConnections, usual},
	{"datagrams", []metric{{metricUDP, "1/s"}, {metricCPU, "ns"}}, datagrams, withUDP},
	{"latency", []metric{{metricRTT50, "µs"}, {metricRTT99, "µs"}}, latency, usual},
	{"xdp", []metric{{metricXDP, "Mbit/s"}}, oneStream, withXDP},
}

// suited returns the testbeds a load is for, or nil when only the baseline is left.
func (l load) suited(testbeds []*testbed) (suited []*testbed) {
	for _, tb := range testbeds {
		if l.suits(tb.system) {
			suited = append(suited, tb)
		}
	}
	if len(suited) < 2 {
		return nil
	}
	return suited
}
