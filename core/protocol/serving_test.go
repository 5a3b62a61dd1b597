package protocol

import (
	"strings"
	"testing"
)

func TestServing(t *testing.T) {
	const all = "web/tcp/192.0.2.1/80+443-445,dns/both/2001:db8::1/53,any/udp/192.0.2.2/all"
	list, err := ParseServing(all)
	if err != nil || len(list) != 3 || FormatServing(list) != all {
		t.Errorf("%v, %v", list, err)
	}
	if list, err := ParseServing(""); err != nil || list != nil {
		t.Errorf("%v, %v", list, err)
	}
	for value, want := range map[string]string{
		"web":                        "not name/protocol/vip/ports",
		"w b/tcp/192.0.2.1/80":       "name",
		"web/sctp/192.0.2.1/80":      `protocol "sctp"`,
		"web/tcp/192.0.2/80":         "192.0.2",
		"web/tcp/192.0.2.1/0":        `ports "0"`,
		"web/tcp/192.0.2.1/80-70":    "ports",
		"web/tcp/192.0.2.1/80+":      "ports",
		"web/tcp/192.0.2.1/80,":      "not name",
		"web/tcp/192.0.2.1/65536":    "ports",
		strings.Repeat("x", 1000):    "…",
		"web/tcp/192.0.2.1/80/more/": "not name",
	} {
		if _, err := ParseServing(value); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", value, err, want)
		}
	}
}

func FuzzServing(f *testing.F) {
	f.Add("web/tcp/192.0.2.1/80+443-445,dns/both/2001:db8::1/53,any/udp/192.0.2.2/all")
	f.Fuzz(func(t *testing.T, value string) {
		list, err := ParseServing(value)
		if err != nil {
			return
		}
		again, err := ParseServing(FormatServing(list))
		if err != nil || FormatServing(again) != FormatServing(list) {
			t.Errorf("%q was written as %q: %v", value, FormatServing(list), err)
		}
	})
}
