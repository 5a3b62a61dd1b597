package witness

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/caplance/caplance/core/protocol"
)

// Talk carries one stream until it breaks or ctx ends, and closes it. It begins
// with what has not been told yet; at keepAlive it shows that it is there.
func (w *Witness) Talk(ctx context.Context, stream protocol.Communicator, keepAlive time.Duration) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer context.AfterFunc(ctx, func() { stream.Close() })()
	var writing sync.Mutex
	write := func(frames []byte, err error) error {
		writing.Lock()
		defer writing.Unlock()
		if err == nil && len(frames) > 0 {
			err = stream.WriteFrames(frames)
		}
		return err
	}
	var answering sync.WaitGroup
	answering.Go(func() { cancel(w.answerAll(stream, write)) })
	cancel(w.tell(ctx, write, keepAlive))
	stream.Close()
	answering.Wait()
	return context.Cause(ctx)
}

// answerAll answers questions until the stream breaks.
func (w *Witness) answerAll(stream protocol.Communicator, write func([]byte, error) error) error {
	for {
		kind, reports, err := stream.ReadFrame(nil)
		if err != nil {
			return err
		}
		switch kind {
		case protocol.QuestionFrame:
			err = write(w.answer(reports))
			w.remember()
		case protocol.CensusFrame:
			err = write(w.count())
		}
		if err != nil {
			return err
		}
	}
}

// tell sends what ends until ctx ends or the stream breaks. What could not be
// sent is lost.
func (w *Witness) tell(ctx context.Context, write func([]byte, error) error, keepAlive time.Duration) error {
	alive := time.NewTicker(keepAlive)
	defer alive.Stop()
	for {
		if err := write(w.take(), nil); err != nil {
			w.note(nil, true)
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-alive.C:
			if err := write(protocol.AppendFrames(nil, protocol.EndedFrame, nil), nil); err != nil {
				return err
			}
		case <-w.fresh:
			pause(ctx, gather/2)
		}
	}
}

// Attach asks a balancer to take a connection as the stream of a session.
func Attach(stream protocol.Communicator, backend, token string) error {
	req := protocol.Request{Verb: protocol.Connections, Name: backend, Nonce: token}
	if err := stream.WriteLine(req.String()); err != nil {
		return err
	}
	line, err := stream.ReadLine()
	if err != nil {
		return err
	}
	reply, err := protocol.ParseReply(line)
	switch {
	case err != nil:
		return err
	case reply.Verb == protocol.Connections:
		return nil
	case reply.Verb == protocol.Invalid:
		return errors.New("balancer refused: " + reply.Text)
	}
	return fmt.Errorf("balancer answered %s", reply.Verb)
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
