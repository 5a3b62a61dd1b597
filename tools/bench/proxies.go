package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"

	"github.com/caplance/caplance/e2e/cluster"
)

// haproxy starts HAProxy in TCP mode, with as many threads as there are
// processors, which is its default.
func haproxy(ctx context.Context, b *testbed) error {
	path, err := program("haproxy", "haproxy")
	if err != nil {
		return err
	}
	config := haproxyConfig(cluster.VIP4, b.Backends[0].Data)
	return peer{path: path, args: []string{"-db", "-f", b.peerFile()}, config: config, copies: 1}.run(ctx, b)
}

func haproxyConfig(vip, backend netip.Addr) string {
	config := `global
	maxconn 4000
defaults
	mode tcp
	option splice-auto
	timeout connect 5s
	timeout client 60s
	timeout server 60s
`
	for _, port := range []int{echoPort, discardPort} {
		config += fmt.Sprintf("listen port%[1]d\n\tbind %[2]v:%[1]d\n\tserver b1 %[3]v:%[1]d\n", port, vip, backend)
	}
	return config
}

// nginx starts nginx's stream module. Its workers are started one by one, without
// a master: so each ends with us, whatever ends us.
func nginx(ctx context.Context, b *testbed) error {
	path, err := program("nginx", "nginx libnginx-mod-stream")
	if err != nil {
		return err
	}
	module := "/usr/lib/nginx/modules/ngx_stream_module.so" // Debian's
	if _, err := os.Stat(module); err != nil {
		module = "" // built in, or not there at all
	}
	config := nginxConfig(cluster.VIP4, b.Backends[0].Data, module)
	err = peer{path: path, args: []string{"-e", "stderr", "-p", b.Dir, "-c", b.peerFile()}, config: config, copies: runtime.NumCPU()}.run(ctx, b)
	if err != nil && strings.Contains(err.Error(), `unknown directive "stream"`) {
		return skip("nginx lacks its stream module: apt-get install libnginx-mod-stream")
	}
	return err
}

// nginxConfig keeps every file that nginx writes in the testbed's directory, its
// prefix: it runs as root, and removes its pid file when it ends, even if that
// is a device.
func nginxConfig(vip, backend netip.Addr, module string) string {
	config := ""
	if module != "" {
		config = fmt.Sprintf("load_module %s;\n", module)
	}
	config += `master_process off;
daemon off;
pid nginx.pid;
lock_file nginx.lock;
error_log stderr;
events { worker_connections 4000; }
stream {
`
	for _, s := range []struct {
		port  int
		proto string
	}{{echoPort, ""}, {discardPort, ""}, {discardPort, "udp"}} {
		config += fmt.Sprintf("\tserver { listen %v:%d %s reuseport; proxy_pass %v:%[2]d; }\n", vip, s.port, s.proto, backend)
	}
	return config + "}\n"
}
