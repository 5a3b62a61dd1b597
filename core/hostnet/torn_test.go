package hostnet

import (
	"encoding/json"
	"strings"
	"testing"
)

// A journal that a kill has cut anywhere is read as far as it goes; one that is damaged is
// refused, for nobody would take back what it had.
func TestTornJournal(t *testing.T) {
	here := origin{Boot: "b", NetNS: 1}
	begin, err := json.Marshal(here)
	if err != nil {
		t.Fatal(err)
	}
	whole := string(begin) + "\n"
	for _, c := range []change{{Link: "lo", Addr: "192.0.2.1/32"}, {Index: 2, Addr: "192.0.2.2/32"}, {Addr: "192.0.2.3/32"}, {Sysctl: "net/ipv4/conf/all/arp_ignore", Old: "0", New: "1"}} {
		line, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		whole += string(line) + "\n"
	}
	for n := range len(whole) + 1 {
		changes, err := parse([]byte(whole[:n]), here)
		if want := max(strings.Count(whole[:n], "\n")-1, 0); err != nil || len(changes) != want {
			t.Errorf("cut after %q: %d changes, %v", whole[:n], len(changes), err)
		}
	}
	for _, damaged := range []string{"garbage", "x" + whole[1:20], whole + "garbage", "\x00\x00\x00", whole + "\x00", "[1"} {
		if _, err := parse([]byte(damaged), here); err == nil || !strings.Contains(err.Error(), "is not the begin of a change") {
			t.Errorf("%q: %v", damaged, err)
		}
	}
}
