package main

import (
	"errors"
	"net/netip"
	"regexp"
	"strings"
	"testing"
)

var (
	testVIP     = netip.MustParseAddr("192.0.2.1")
	testBackend = netip.MustParseAddr("198.51.100.1")
)

// Proxies lead from the VIP to the backend, not to themselves.
func TestProxiesLeadToTheBackend(t *testing.T) {
	for config, want := range map[string][]string{
		haproxyConfig(testVIP, testBackend):   {"bind 192.0.2.1:8007\n\tserver b1 198.51.100.1:8007", "bind 192.0.2.1:8009\n\tserver b1 198.51.100.1:8009"},
		nginxConfig(testVIP, testBackend, ""): {"listen 192.0.2.1:8007  reuseport; proxy_pass 198.51.100.1:8007;", "listen 192.0.2.1:8009 udp reuseport; proxy_pass 198.51.100.1:8009;"},
	} {
		for _, w := range want {
			if !strings.Contains(config, w) {
				t.Errorf("no %q in\n%s", w, config)
			}
		}
	}
}

// nginx, as root, removes its pid file when it ends: whatever it writes lies
// in its own directory, and no device is among it.
func TestNginxWritesAtHome(t *testing.T) {
	config := nginxConfig(testVIP, testBackend, "/usr/lib/module.so")
	for _, line := range regexp.MustCompile(`(?m)^\s*(pid|lock_file|error_log|access_log)\s.*$`).FindAllString(config, -1) {
		if strings.Contains(line, "/") {
			t.Errorf("%s is not in nginx's own directory", line)
		}
	}
	for _, file := range []string{"\npid ", "\nlock_file ", "\nerror_log "} {
		if !strings.Contains(config, file) {
			t.Errorf("%q is left to nginx's default, which is the system's", file)
		}
	}
}

func TestMissingProgramIsSkipped(t *testing.T) {
	_, err := program("no-such-balancer", "some-package")
	var why skip
	if !errors.As(err, &why) || !strings.Contains(string(why), "apt-get install some-package") {
		t.Errorf("%v does not say how to install it", err)
	}
}
