package protocol

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"
)

// Lengths of a line in bytes, its end not counted.
const (
	MaxRequest = 512       // agent to balancer, and every answer to a v=1 agent
	MaxReply   = 256 << 10 // answers to a v=2 agent: some thousand services
)

// What is wrong with a line as such. The session gets one INVALID and ends,
// for there is no telling where the next line starts.
var (
	ErrTooLong = errors.New("line longer than allowed")
	ErrBinary  = errors.New("line is not UTF-8 text")
)

// Communicator carries the lines of one session. ReadLine and WriteLine block;
// each is called by one goroutine at a time, the others by any at any time.
// After Close both fail.
type Communicator interface {
	// ReadLine returns the next line without its end. An error whose Timeout
	// method says true means that the other side's lease is over.
	ReadLine() (string, error)
	// WriteLine sends the line and its end.
	WriteLine(line string) error
	// ReadFrame and WriteFrames take the place of ReadLine and WriteLine once the
	// stream carries frames. ReadFrame appends to reports.
	ReadFrame(reports []Report) (FrameKind, []Report, error)
	// WriteFrames sends what AppendFrames made.
	WriteFrames(frames []byte) error
	// SetTimeouts holds from the next ReadLine and WriteLine on.
	SetTimeouts(read, write time.Duration)
	Close() error
}

// TCPCommunicator is the Communicator on a stream connection.
type TCPCommunicator struct {
	// Limit is the length of a line, in bytes, above which ReadLine fails with
	// ErrTooLong. It must not change once ReadLine was called.
	Limit int

	conn         net.Conn
	reader       *bufio.Reader
	writer       *bufio.Writer
	readTimeout  atomic.Int64 // nanoseconds
	writeTimeout atomic.Int64
	looked       bool // once more, since this line began
	close        func() error
}

// lastLook is how long a read goes on whose time is over.
const lastLook = 100 * time.Millisecond

// NewTCPCommunicator takes over conn. readTimeout is for a whole line, from
// the call of ReadLine to its end, however the bytes trickle in: it is the
// lease. A line that has come by then is read, even if this process stood still
// and sees it later. writeTimeout is for one line too. The limit is MaxRequest.
func NewTCPCommunicator(conn net.Conn, readTimeout, writeTimeout time.Duration) *TCPCommunicator {
	c := &TCPCommunicator{
		Limit:  MaxRequest,
		conn:   conn,
		writer: bufio.NewWriterSize(conn, MaxRequest),
		close:  sync.OnceValue(conn.Close),
	}
	c.reader = bufio.NewReaderSize(looking{c}, MaxRequest)
	c.SetTimeouts(readTimeout, writeTimeout)
	return c
}

// SetTimeouts implements Communicator.
func (c *TCPCommunicator) SetTimeouts(read, write time.Duration) {
	c.readTimeout.Store(int64(read))
	c.writeTimeout.Store(int64(write))
}

// ReadLine implements Communicator; "\r\n" ends a line as "\n" does. It fails
// with ErrTooLong, ErrBinary or the connection's error.
func (c *TCPCommunicator) ReadLine() (string, error) {
	if err := c.beginRead(); err != nil {
		return "", err
	}
	var line []byte
	for {
		part, err := c.reader.ReadSlice('\n')
		line = append(line, part...)
		full := errors.Is(err, bufio.ErrBufferFull)
		if err != nil && !full {
			return "", err
		}
		if len(line) > c.Limit+len("\r\n") {
			return "", fmt.Errorf("%w (%d bytes)", ErrTooLong, c.Limit)
		}
		if !full {
			break
		}
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(line), "\n"), "\r")
	if len(text) > c.Limit {
		return "", fmt.Errorf("%w (%d bytes)", ErrTooLong, c.Limit)
	}
	if !isText(text) {
		return "", ErrBinary
	}
	return text, nil
}

// beginRead has the time of a line or a frame begin.
func (c *TCPCommunicator) beginRead() error {
	c.looked = false
	return c.conn.SetReadDeadline(time.Now().Add(time.Duration(c.readTimeout.Load())))
}

// looking reads what a communicator's peer says. A process that stood still, for
// it was stopped or its machine was moved, finds that the time is over and that the
// peer has spoken meanwhile: so it looks once more before it takes that for silence.
type looking struct{ *TCPCommunicator }

func (l looking) Read(p []byte) (int, error) {
	n, err := l.conn.Read(p)
	var timeout net.Error
	if n > 0 || l.looked || !errors.As(err, &timeout) || !timeout.Timeout() {
		return n, err
	}
	l.looked = true
	if err := l.conn.SetReadDeadline(time.Now().Add(lastLook)); err != nil {
		return 0, err
	}
	return l.conn.Read(p)
}

func isText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsControl(r) && r != '\t'
	})
}

// WriteLine implements Communicator. It refuses a line that would not arrive
// as one.
func (c *TCPCommunicator) WriteLine(line string) error {
	if !isText(line) {
		return ErrBinary
	}
	if err := c.conn.SetWriteDeadline(time.Now().Add(time.Duration(c.writeTimeout.Load()))); err != nil {
		return err
	}
	c.writer.WriteString(line) // a bufio.Writer keeps its error for Flush
	c.writer.WriteByte('\n')
	return c.writer.Flush()
}

// ReadFrame implements Communicator. It fails with ErrFrame or the connection's
// error.
func (c *TCPCommunicator) ReadFrame(reports []Report) (FrameKind, []Report, error) {
	if err := c.beginRead(); err != nil {
		return 0, reports, err
	}
	return ReadFrame(c.reader, reports)
}

// WriteFrames implements Communicator.
func (c *TCPCommunicator) WriteFrames(frames []byte) error {
	if err := c.conn.SetWriteDeadline(time.Now().Add(time.Duration(c.writeTimeout.Load()))); err != nil {
		return err
	}
	c.writer.Write(frames)
	return c.writer.Flush()
}

// Close implements Communicator; the second call returns what the first did.
func (c *TCPCommunicator) Close() error { return c.close() }
