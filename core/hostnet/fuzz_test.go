package hostnet

import (
	"encoding/json"
	"testing"
)

// FuzzJournal: whatever the file of changes to the machine has become, it is refused, or
// every change in it is one that this package makes, and takes back.
func FuzzJournal(f *testing.F) {
	here := origin{Boot: "b", NetNS: 1}
	begin, err := json.Marshal(here)
	if err != nil {
		f.Fatal(err)
	}
	for _, line := range []string{
		"", `{"sysctl":"net.ipv4.ip_forward","old":"0","new":"1"}` + "\n", `{"sysctl":"../../etc/passwd","old":"0","new":"1"}` + "\n",
		`{"link":"lo","addr":"192.0.2.1/32"}` + "\n", "{}\n{", "\n\n", `{"sysctl":"net.ipv4.ip_forward","old":"0`,
	} {
		f.Add(string(begin) + "\n" + line)
	}
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		changes, err := parse([]byte(text), here)
		if err != nil && changes != nil {
			t.Errorf("%v with %v", changes, err)
		}
		for _, c := range changes {
			if err := c.check(); err != nil {
				t.Errorf("%+v: %v", c, err)
			}
		}
	})
}
