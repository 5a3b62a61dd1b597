package ruleset

import "testing"

// The vectors of hashlittle in lookup3.c (Jenkins, 2006), whose function jhash is.
func TestJhash(t *testing.T) {
	for _, tt := range []struct {
		in   string
		seed uint32
		want uint32
	}{
		{"", 0, 0xdeadbeef},
		{"", 0xdeadbeef, 0xbd5b7dde},
		{"Four score and seven years ago", 0, 0x17770551},
		{"Four score and seven years ago", 1, 0xcd628161},
	} {
		if got := jhash([]byte(tt.in), tt.seed); got != tt.want {
			t.Errorf("jhash(%q, %#x) = %#x, want %#x", tt.in, tt.seed, got, tt.want)
		}
	}
}
