package protocol

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/caplance/caplance/core"
)

// FormatServing returns the value of serves=, in which REGISTERED and OFFER name the
// services to agents that check them: web/tcp/192.0.2.1/80+443-445.
func FormatServing(list []*core.Service) string {
	words := make([]string, len(list))
	for i, s := range list {
		words[i] = s.Name + "/" + s.Protocol() + "/" + s.VIP.String() + "/" + strings.ReplaceAll(s.PortList(), ",", "+")
	}
	return strings.Join(words, ",")
}

// ParseServing reads the value of serves=, which may be empty: names, VIPs, protocols
// and ports.
func ParseServing(value string) (out []*core.Service, err error) {
	if value == "" {
		return nil, nil
	}
	for word := range strings.SplitSeq(value, ",") {
		s, err := parseServing(word)
		if err != nil {
			return nil, fmt.Errorf("serves %s: %w", clip(word), err)
		}
		out = append(out, s)
	}
	return out, nil
}

func parseServing(word string) (s *core.Service, err error) {
	s = &core.Service{}
	part := strings.Split(word, "/")
	if len(part) != 4 {
		return s, fmt.Errorf("it is not name/protocol/vip/ports")
	}
	s.Name = part[0]
	if err := checkName(s.Name); err != nil {
		return s, err
	}
	switch part[1] {
	case "tcp":
		s.Protos = []uint8{core.ProtoTCP}
	case "udp":
		s.Protos = []uint8{core.ProtoUDP}
	case "both":
		s.Protos = []uint8{core.ProtoTCP, core.ProtoUDP}
	default:
		return s, fmt.Errorf("protocol %s is none of tcp, udp, both", clip(part[1]))
	}
	if s.VIP, err = netip.ParseAddr(part[2]); err != nil {
		return s, err
	}
	if part[3] == "all" {
		s.Ports = []core.PortRange{core.AllPorts}
		return s, nil
	}
	for r := range strings.SplitSeq(part[3], "+") {
		first, last, ok := strings.Cut(r, "-")
		if !ok {
			last = first
		}
		a, err := strconv.ParseUint(first, 10, 16)
		b, err2 := strconv.ParseUint(last, 10, 16)
		if err != nil || err2 != nil || a == 0 || a > b {
			return s, fmt.Errorf("ports %s are not ports", clip(r))
		}
		s.Ports = append(s.Ports, core.PortRange{First: uint16(a), Last: uint16(b)})
	}
	return s, nil
}
