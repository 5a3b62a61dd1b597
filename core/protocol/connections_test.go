package protocol

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"slices"
	"testing"

	"github.com/caplance/caplance/core"
)

func reportOf(client, vip string, value uint16) Report {
	c, v := netip.MustParseAddrPort(client), netip.MustParseAddrPort(vip)
	return Report{core.FlowKey{Src: c.Addr().As16(), Dst: v.Addr().As16(), SrcPort: c.Port(), DstPort: v.Port(), Proto: core.ProtoTCP}, value}
}

func TestFrames(t *testing.T) {
	few := []Report{
		reportOf("198.51.100.7:40000", "192.0.2.1:80", 3),
		reportOf("[2001:db8::7]:1", "[2001:db8::1]:65535", 65535),
		reportOf("198.51.100.7:40001", "192.0.2.1:443", 0),
	}
	var many []Report
	for i := range 5000 {
		many = append(many, few[i%3])
	}
	for _, tt := range []struct {
		name    string
		kind    FrameKind
		reports []Report
	}{{"few", AnswerFrame, few}, {"none", LostFrame, nil}, {"many", EndedFrame, many}} {
		t.Run(tt.name, func(t *testing.T) {
			stream := bytes.NewReader(AppendFrames(nil, tt.kind, tt.reports))
			var got []Report
			for {
				kind, next, err := ReadFrame(stream, got)
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil || kind != tt.kind {
					t.Fatalf("kind %d, %v", kind, err)
				}
				got = next
			}
			if !slices.Equal(got, tt.reports) {
				t.Errorf("%d reports of %d came back, or others", len(got), len(tt.reports))
			}
		})
	}
	if n := len(AppendFrames(nil, EndedFrame, few[:1])); n != frameHeader+15 {
		t.Errorf("a record of IPv4 takes %d bytes, want 15", n-frameHeader)
	}
}

func TestBadFrames(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   []byte
		want error
	}{
		{"cut header", []byte{0, 0, 1}, io.ErrUnexpectedEOF},
		{"cut record", []byte{0, 15, 1, 0, 4, 0}, io.ErrUnexpectedEOF},
		{"too long", []byte{0xff, 0xff, 1, 0}, ErrFrame},
		{"family 5", append([]byte{0, 15, 1, 0, 5}, make([]byte, 14)...), ErrFrame},
		{"half a record", append([]byte{0, 5, 1, 0, 4}, make([]byte, 4)...), ErrFrame},
		{"a kind of the future", append([]byte{0, 3, 99, 0}, 1, 2, 3), nil},
	} {
		if _, reports, err := ReadFrame(bytes.NewReader(tt.in), nil); !errors.Is(err, tt.want) || len(reports) > 0 {
			t.Errorf("%s: %d reports, %v, want %v", tt.name, len(reports), err, tt.want)
		}
	}
}

// Whatever can be read is written the same way.
func FuzzReadFrame(f *testing.F) {
	f.Add(AppendFrames(nil, EndedFrame, []Report{reportOf("198.51.100.7:40000", "192.0.2.1:80", 3)}))
	f.Add(AppendFrames(nil, AnswerFrame, []Report{reportOf("[2001:db8::7]:1", "[2001:db8::1]:65535", 1)}))
	f.Add(AppendFrames(nil, LostFrame, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, reports, err := ReadFrame(bytes.NewReader(b), nil)
		if err != nil || kind < EndedFrame || kind > LostFrame {
			return
		}
		again, back, err := ReadFrame(bytes.NewReader(AppendFrames(nil, kind, reports)), nil)
		if err != nil || again != kind || !slices.Equal(back, reports) {
			t.Errorf("%v became %v, %v", reports, back, err)
		}
	})
}
