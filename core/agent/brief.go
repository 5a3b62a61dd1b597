package agent

import (
	"fmt"
	"net/netip"
	"strings"
)

// A balancer's line may have 256 KB, and what it says goes into the log.
const (
	maxBrief = 1024 // bytes of an error
	maxFew   = 64   // addresses of a list
)

// brief returns an error's text, or its begin.
func brief(err error) string {
	text := err.Error()
	if len(text) <= maxBrief {
		return text
	}
	return strings.ToValidUTF8(text[:maxBrief], "") + "…"
}

// few returns addresses for people, the first ones of many.
func few(list []netip.Addr) string {
	if len(list) <= maxFew {
		return fmt.Sprint(list)
	}
	return fmt.Sprintf("%v and %d more", list[:maxFew], len(list)-maxFew)
}
