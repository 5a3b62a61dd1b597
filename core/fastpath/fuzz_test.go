package fastpath

import (
	"bytes"
	"errors"
	"testing"

	"github.com/cilium/ebpf"
)

// situation is what a byte of the fuzzer's makes of the testbed.
type situation uint16

func (s situation) xdp() bool   { return s&1 != 0 }
func (s situation) down() bool  { return s&2 != 0 }
func (s situation) table() bool { return s&4 != 0 }
func (s situation) state() uint8 {
	return [...]uint8{0, 1, 3, 1 | 4}[s>>3&3] // open, closed, half-closed, reopened after that
}

// kind is what is known of the flow: nothing, that it is established, or pending.
func (s situation) kind() int  { return int(s>>5&3) % 3 }
func (s situation) b() backend { return backend(s>>8) % backends }

// Whatever comes and whatever is known of it, the programs do what the model does:
// the same verdict, the same bytes out, the same entry of the flow afterwards.
func FuzzModel(f *testing.F) {
	for i, in := range [][]byte{
		tcp4(ack, 9), tcp4(syn, 0), tcp4(finAck, 0), tcp4(rst, 0), udp4(9), tcp6(ack, 9), tcp6(syn, 0), udp6(9), udp4(mtu4 - 28), tcp6(ack, mtu6-60),
		with(tcp4(ack, 9), 6, 0x20, 0), with(tcp4(ack, 9), 8, 1), with(udp6(9), 7, 1), options4(tcp4(ack, 9)), extended(tcp6(ack, 9), 44, 0, 1),
		addressed(tcp4(ack, 9), 2), padded(udp4(9), 90), with(tcp4(ack, 9), 2, 0, 50), tcp(client4, web8002, syn, 3), tcp(client4, metered, syn, 0),
		tcp(client6, web6Zero, syn, 0), udp(client4, other, 1), tcp(client4, other, syn, 1), ether(0x0806, payload(28)), tcp4(synAck, 0), tcp4(ack, 9)[:40],
	} {
		for n := range uint16(8) {
			f.Add(n|uint16(i*37+int(n)*11)<<3, in)
		}
	}
	s := newTestbed(f)
	if err := s.reset(); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, how uint16, in []byte) {
		if len(in) < 54 || len(in) > 2000 { // what a trial shows to TC
			return
		}
		now := situation(how)
		m := &model{s: s, xdp: now.xdp(), down: now.down(), table: now.table()}
		s.dead = m.down
		err := s.decides(m.table)
		if m.down {
			err = errors.Join(err, s.StopUpcalls())
		} else {
			err = errors.Join(err, s.Heartbeat())
		}
		p := m.parse(in)
		if p != nil {
			key := flowKey(&p.key, s.gen.vips.byAddr[p.key.Dst])
			defer s.forget(&key) // or the table is full
			err = errors.Join(err, s.know(m, &key, now))
		}
		if err != nil {
			t.Fatal(err)
		}
		program := s.gen.tc
		if m.xdp {
			program = s.gen.xdp
		}
		before := *m
		want := m.run(in)
		verdict, out := run(t, program, in, nil)
		if want.vague {
			return
		}
		if verdict != want.verdict {
			t.Errorf("verdict %d, the model says %d (%+v)", int32(verdict), int32(want.verdict), before)
		}
		if !bytes.Equal(out, want.out) {
			t.Errorf("the frame is\n%x, the model says\n%x", out, want.out)
		}
		if p != nil {
			s.checkEntry(t, m, p)
		}
	})
}

// decides says whether the lookup tables, which stay as they are, are the policies'.
func (s *testbed) decides(table bool) error {
	var errs []error
	for _, service := range s.snapshot.Services.List {
		if s.set.table != table {
			errs = append(errs, s.setConf(s.gen, service, table))
		}
	}
	s.set.table = table
	return errors.Join(errs...)
}

// know makes the entry of a flow what the situation says, and the model know of it.
func (s *testbed) know(m *model, key *balanceFlowKey, now situation) error {
	if now.kind() == 0 {
		return nil
	}
	f := balanceFlow{Handle: uint32(now.b().handle()), Service: 1, State: now.state(), Packets: 1, Bytes: 40, Created: s.tick(), Seen: s.tick()}
	m.flow, m.established = &f, now.kind() == 1
	if m.established {
		return s.maps().Flows.Put(key, &f)
	}
	return s.maps().Pending.Put(key, &f)
}

// forget takes what there is of a flow away.
func (s *testbed) forget(key *balanceFlowKey) {
	for _, from := range []*ebpf.Map{s.maps().Flows, s.maps().Pending, s.gen.Overdrafts} {
		_ = from.Delete(key) // most are in none
	}
}

// checkEntry compares the flow's entry with the model's, but for the times.
func (s *testbed) checkEntry(t *testing.T, m *model, p *parsed) {
	t.Helper()
	key := flowKey(&p.key, s.gen.vips.byAddr[p.key.Dst])
	var got balanceFlow
	established := s.maps().Flows.Lookup(&key, &got) == nil
	there := established || s.maps().Pending.Lookup(&key, &got) == nil
	if there != (m.flow != nil) || there && established != m.established {
		t.Fatalf("there is an entry: %v, established: %v; the model says %v, %v", there, established, m.flow != nil, m.established)
	}
	if !there {
		return
	}
	want := *m.flow
	want.Created, want.Seen = got.Created, got.Seen
	if got != want {
		t.Errorf("the entry is\n%+v, the model says\n%+v", got, want)
	}
}

// Whatever comes, the agent's program takes out of the tunnel what the model does,
// bit by bit, and nothing else.
func FuzzReceive(f *testing.F) {
	for _, in := range [][]byte{
		in4(tcp4(ack, 9)), in4(udp6(9)), in6(tcp4(ack, 9)), in6(udp6(0)), outer(from4, at4, tcp4(ack, 9)), outer(from6, at6, udp4(9)), outer(from6, at6, tcp6(ack, 10)),
		in4(options4(tcp4(ack, 9))), in4(with(tcp4(ack, 9), 1, 0xba)), in6(with(udp6(9), 1, 0x20)), with(in4(tcp4(ack, 9)), 1, 3), with(in6(tcp4(ack, 9)), 1, 0x30),
		padded(in4(udp4(0)), 100), with(in4(tcp4(ack, 9)), 6, 0x20, 0), with(outer(from4, at4, udp4(9)), 24, 1, 0), extended(in6(tcp4(ack, 9)), 44, 0, 1),
		outer(client4, at4, tcp4(ack, 9)), in4(tcp(client4, nobody4, syn, 0)), in4(with(tcp4(ack, 9), 0, 0x55)), addressed(in4(tcp4(ack, 9)), 2), tcp4(ack, 9),
	} {
		f.Add(in)
	}
	r := newReceiver(f, featureDecap.Have() != nil)
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) < 54 || len(in) > 2000 {
			return
		}
		want := received(in)
		if want == nil {
			want = in
		}
		if verdict, out := run(t, r.objs.Receive, in, nil); verdict != pass || !bytes.Equal(out, want) {
			t.Errorf("verdict %d, the frame is\n%x, the model says\n%x", int32(verdict), out, want)
		}
	})
}
