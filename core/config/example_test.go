package config_test

import (
	"fmt"

	"github.com/caplance/caplance/core/config"
)

const file = `
[[service]]
name = "web"
vip = "192.0.2.1"
ports = [80, 443]
`

// All findings come at once, each with file, line and key.
func ExampleParseServer() {
	_, err := config.ParseServer("caplance.toml", []byte(file+"protocol = \"sctp\"\nslow_start = \"soon\"\n"))
	fmt.Println(err)
	// Output:
	// caplance.toml:6: service[0].protocol: "sctp" is not a protocol (tcp, udp, both)
	// caplance.toml:7: service[0].slow_start: "soon" is not a duration (like "500ms", "30s" or "5m")
}

func ExampleDiff() {
	old, _ := config.ParseServer("caplance.toml", []byte(file))
	next, _ := config.ParseServer("caplance.toml", []byte("state_dir = \"/var/lib/caplance\"\n"+file+"policy = \"maglev\"\n"))
	for _, c := range config.Diff(old, next) {
		fmt.Println(c, c.Live)
	}
	// Output:
	// state_dir: "/run/caplance" → "/var/lib/caplance" (the lock and the saved state are there; restart the balancer) false
	// service "web".policy: "hash" → "maglev" true
}
