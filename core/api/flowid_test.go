package api

import (
	"strings"
	"testing"
)

func TestFlowIDsAreChecked(t *testing.T) {
	for _, bad := range [][2]string{
		{"198.51.100.7", "192.0.2.1:80/tcp"}, {"client:80", "192.0.2.1:80/tcp"}, {"198.51.100.7:1", "192.0.2.1:80"}, {"198.51.100.7:1", "192.0.2.1:80/icmp"},
		{"198.51.100.7:1", "192.0.2.1/tcp"},
	} {
		if id, err := ParseFlowID(bad[0], bad[1]); err == nil || !strings.Contains(err.Error(), "is not") {
			t.Errorf("%v: %+v, %v", bad, id, err)
		}
	}
}
