package api

import (
	"fmt"
	"net/netip"
	"strings"
)

// FlowID names a flow as the client sees it.
type FlowID struct {
	Src   netip.AddrPort `json:"src"`
	Dst   netip.AddrPort `json:"dst"` // VIP and port
	Proto string         `json:"proto"`
}

// ParseFlowID reads "SRC:PORT" and "VIP:PORT/proto".
func ParseFlowID(src, dst string) (f FlowID, err error) {
	if f.Src, err = netip.ParseAddrPort(src); err != nil {
		return f, fmt.Errorf("client %q is not ADDRESS:PORT (like 198.51.100.7:40000 or [2001:db8::7]:40000)", src)
	}
	addr, proto, _ := strings.Cut(dst, "/")
	if f.Dst, err = netip.ParseAddrPort(addr); err != nil || proto != "tcp" && proto != "udp" {
		return f, fmt.Errorf("destination %q is not VIP:PORT/tcp or VIP:PORT/udp", dst)
	}
	f.Proto = proto
	return f, nil
}

// Explanation says where a flow's packets go, and why.
type Explanation struct {
	FlowID
	Service  string   `json:"service"`            // "" when no service has that VIP, protocol and port
	Flow     *FlowRow `json:"flow"`               // null for a flow that is not known
	Decision string   `json:"decision,omitempty"` // what would decide on the first packet of an unknown one
	Backend  string   `json:"backend"`            // where its packets go; for an unknown one if the decision can be predicted
	Path     string   `json:"path,omitempty"`     // how they get there: mode, address, and through what
}
