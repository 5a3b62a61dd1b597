package nettest_test

import (
	"net"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/caplance/caplance/core/nettest"
)

func TestNetNS(t *testing.T) {
	before, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	t.Run("inside", func(t *testing.T) {
		if nettest.NetNS(t).Equal(before) {
			t.Error("still in the namespace of the process")
		}
		links, err := netlink.LinkList()
		if err != nil || len(links) != 1 || links[0].Attrs().Flags&net.FlagUp == 0 {
			t.Errorf("links %v, %v: want lo alone, up", links, err)
		}
	})
}

func TestOwnNetNS(t *testing.T) {
	if !nettest.OwnNetNS(t) {
		return
	}
	got := make(chan int)
	go func() { // another thread, the same namespace
		links, _ := netlink.LinkList()
		got <- len(links)
	}()
	if n := <-got; n != 1 {
		t.Errorf("%d links, want lo alone", n)
	}
}
