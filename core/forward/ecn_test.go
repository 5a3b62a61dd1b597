package forward

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/caplance/caplance/core/packet/packettest"
)

// RFC 6040, figure 4: the rows are the field within, the columns the outer one;
// 9 is to be dropped.
func TestFold(t *testing.T) {
	table := [4][4]int{
		notECT: {notECT: notECT, ect1: notECT, ect0: notECT, ce: 9},
		ect1:   {notECT: ect1, ect1: ect1, ect0: ect1, ce: ce},
		ect0:   {notECT: ect0, ect1: ect1, ect0: ect0, ce: ce},
		ce:     {notECT: ce, ect1: ce, ect0: ce, ce: ce},
	}
	for inner, row := range table {
		for outer, want := range row {
			for _, family := range []int{4, 6} {
				t.Run(fmt.Sprintf("%02b in %02b, IPv%d", inner, outer, family), func(t *testing.T) {
					in, out := marked(family, 0xb8|inner), marked(family, 0xb8|want)
					if ok := Fold(in, 0x40|uint8(outer)); ok != (want != 9) || ok && !bytes.Equal(in, out) {
						t.Errorf("%v\n%x, want\n%x", ok, in, out)
					}
				})
			}
		}
	}
}

// marked returns a packet with DSCP and ECN.
func marked(family, class int) []byte {
	if family == 6 {
		b := packettest.UDP(client6, vip6, []byte("x"))
		b[0], b[1] = b[0]|byte(class>>4), byte(class<<4)|3 // a flow label, too
		return b
	}
	b := packettest.UDP(client4, vip4, []byte("x"))
	b[1], b[10], b[11] = byte(class), 0, 0
	sum := ^packettest.Sum(0, b[:20])
	b[10], b[11] = byte(sum>>8), byte(sum)
	return b
}
