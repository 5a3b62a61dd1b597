package state

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/caplance/caplance/core"
)

// Encoder renders what is to be saved of successive snapshots, as Saved.Encode
// does; services that have not changed are not rendered again. One goroutine may
// use it.
type Encoder struct {
	s    *Store
	done map[core.ServiceID]encoded
	out  bytes.Buffer
}

// encoded is a service as it was rendered last.
type encoded struct {
	pool *core.Pool
	text []byte
}

// Encoder returns one for the store's snapshots.
func (s *Store) Encoder() *Encoder {
	return &Encoder{s: s, done: map[core.ServiceID]encoded{}}
}

// Encode returns what is to be saved of a snapshot. While backends of a
// predecessor are missing it renders everything.
func (e *Encoder) Encode(snap *core.Snapshot) ([]byte, error) {
	if e.s.expects() {
		return e.s.Save(snap).Encode()
	}
	e.out.Reset()
	z, err := gzip.NewWriterLevel(&e.out, gzip.BestSpeed)
	if err != nil {
		return nil, fmt.Errorf("saved state: %w", err)
	}
	text, err := e.text(snap)
	if err != nil {
		return nil, fmt.Errorf("saved state: %w", err)
	}
	if _, err := z.Write(text); err != nil {
		return nil, fmt.Errorf("saved state: %w", err)
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("saved state: %w", err)
	}
	return bytes.Clone(e.out.Bytes()), nil
}

// text returns the JSON of a Saved.
func (e *Encoder) text(snap *core.Snapshot) (out []byte, err error) {
	out = append(out, `{"Boot":`...)
	out = strconv.AppendQuote(out, bootID())
	out = append(out, `,"Services":{`...)
	next := make(map[core.ServiceID]encoded, len(e.done))
	snap.Pools.Each(func(p *core.Pool) {
		one, renderErr := e.service(p)
		if renderErr != nil {
			err = renderErr
			return
		}
		if len(next) > 0 {
			out = append(out, ',')
		}
		next[p.Service.ID] = one
		out = append(strconv.AppendQuote(out, p.Service.Name), ':')
		out = append(out, one.text...)
	})
	e.done = next
	vips, vipErr := json.Marshal(savedVIPs(snap))
	if err == nil {
		err = vipErr
	}
	out = append(append(out, `},"VIPs":`...), vips...)
	return append(out, '}'), err
}

// service returns a pool's part.
func (e *Encoder) service(p *core.Pool) (encoded, error) {
	if one, ok := e.done[p.Service.ID]; ok && one.pool.Service.Name == p.Service.Name && one.pool.SameMembers(p) {
		return one, nil
	}
	text, err := json.Marshal(savedService(p))
	bare := &core.Pool{Service: p.Service, Members: p.Members} // without tables, which are large
	return encoded{bare, text}, err
}
