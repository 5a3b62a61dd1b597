package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/packet"
	"github.com/google/go-cmp/cmp"
)

func TestReport(t *testing.T) {
	r := newReport(&bytes.Buffer{})
	base := r.measure("theirs", "speed", "1/s", nil)
	ours := r.measure("ours", "speed", "1/s", base)
	for i, v := range []float64{100, 50, 200} { // the machine's mood changes both
		base.add(v)
		ours.add(v * float64(i+2))
	}
	file := filepath.Join(t.TempDir(), "bench.json")
	if err := r.write(file); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got []map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	want := []map[string]any{
		{"system": "theirs", "metric": "speed", "unit": "1/s", "median": 100., "ratio": nil},
		{"system": "ours", "metric": "speed", "unit": "1/s", "median": 200., "ratio": 3.},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	var table strings.Builder
	r.print(&table)
	if !strings.Contains(table.String(), "150 – 800") || !strings.Contains(table.String(), "3.00") {
		t.Errorf("table:\n%s", &table)
	}
}

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		samples []float64
		want    float64
	}{{nil, 0}, {[]float64{7}, 7}, {[]float64{3, 1}, 2}, {[]float64{9, 1, 3}, 3}} {
		if got := median(tt.samples); got != tt.want {
			t.Errorf("median of %v is %v, want %v", tt.samples, got, tt.want)
		}
	}
}

// The flood's frames are what they look like, and each is another flow.
func TestFrames(t *testing.T) {
	f := &flood{fd: -1}
	vip := netip.MustParseAddrPort("192.0.2.1:53")
	for i := range f.buf {
		template(f.buf[i][:], net.HardwareAddr{2, 0, 0, 0, 0, 9}, vip)
	}
	seen := map[core.FlowKey]bool{}
	for range 2000 {
		f.fill()
		for i := range f.buf {
			var p packet.Packet
			if err := p.Parse(f.buf[i][etherHeader:]); err != nil || p.Key.DstAddr() != vip {
				t.Fatalf("frame to %v: %v", p.Key.DstAddr(), err)
			}
			seen[p.Key] = true
		}
	}
	if len(seen) != 2000*len(f.buf) {
		t.Errorf("%d flows in %d frames", len(seen), 2000*len(f.buf))
	}
	// The example of RFC 1071's readers (Wikipedia, Internet checksum).
	h := []byte{0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7}
	if checksum(h); h[10] != 0xb8 || h[11] != 0x61 {
		t.Errorf("checksum %x, want b861", h[10:12])
	}
}
