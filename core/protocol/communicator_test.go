package protocol

import (
	"errors"
	"net"
	"testing"
	"time"
)

func TestCommunicatorTimesOut(t *testing.T) {
	here, there := net.Pipe()
	defer there.Close()
	c := NewTCPCommunicator(here, time.Millisecond, time.Millisecond)
	var timeout net.Error
	if _, err := c.ReadLine(); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("read: %v", err)
	}
	if err := c.WriteLine("x"); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("write: %v", err)
	}
	if err := c.WriteLine("a\nb"); !errors.Is(err, ErrBinary) {
		t.Errorf("two lines in one: %v", err)
	}
	if err := errors.Join(c.Close(), c.Close()); err != nil {
		t.Error(err)
	}
}

// A process that stood still for longer than its peer's lease reads what the peer has
// said meanwhile. A peer that goes on with a line, byte by byte, gets no more time.
func TestLinesThatCameInTime(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	there, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	here, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c := NewTCPCommunicator(here, -time.Second, time.Second) // its time is over before it looks
	defer c.Close()
	if _, err := there.Write([]byte("HEALTH 200\nHEAL")); err != nil {
		t.Fatal(err)
	}
	if line, err := c.ReadLine(); err != nil || line != "HEALTH 200" {
		t.Errorf("%q, %v", line, err)
	}
	var timeout net.Error
	if line, err := c.ReadLine(); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("half a line: %q, %v", line, err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := c.ReadLine()
		ended <- err
	}()
	for {
		select {
		case err := <-ended:
			if !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Errorf("a line that never ends: %v", err)
			}
			return
		case <-time.After(lastLook / 10):
			if _, err := there.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
	}
}
