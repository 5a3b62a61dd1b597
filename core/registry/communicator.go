package registry

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// Lengths of a line in bytes, its end not counted.
const (
	MaxRequest = 512      // agent to balancer, and every answer to a v=1 agent
	MaxReply   = 16 << 10 // answers to a v=2 agent: some hundred VIPs
)

// What is wrong with a line as such. The session gets one INVALID and ends,
// for there is no telling where the next line starts.
var (
	ErrTooLong = errors.New("line longer than allowed")
	ErrBinary  = errors.New("line is not UTF-8 text")
)

// Communicator carries the lines of one session. ReadLine and WriteLine block;
// each is called by one goroutine at a time, Close by any at any time, after
// which both fail.
type Communicator interface {
	// ReadLine returns the next line without its end. An error whose Timeout
	// method says true means that the other side's lease is over.
	ReadLine() (string, error)
	// WriteLine sends the line and its end.
	WriteLine(line string) error
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
	readTimeout  time.Duration
	writeTimeout time.Duration
	close        func() error
}

// NewTCPCommunicator takes over conn. readTimeout is for a whole line, from
// the call of ReadLine to its end, however the bytes trickle in: it is the
// lease. writeTimeout is for one line too. The limit is MaxRequest.
func NewTCPCommunicator(conn net.Conn, readTimeout, writeTimeout time.Duration) *TCPCommunicator {
	return &TCPCommunicator{
		Limit:        MaxRequest,
		conn:         conn,
		reader:       bufio.NewReaderSize(conn, MaxRequest),
		writer:       bufio.NewWriterSize(conn, MaxRequest),
		readTimeout:  readTimeout,
		writeTimeout: writeTimeout,
		close:        sync.OnceValue(conn.Close),
	}
}

// ReadLine implements Communicator; "\r\n" ends a line as "\n" does. It fails
// with ErrTooLong, ErrBinary or the connection's error.
func (c *TCPCommunicator) ReadLine() (string, error) {
	if err := c.conn.SetReadDeadline(time.Now().Add(c.readTimeout)); err != nil {
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
	if err := c.conn.SetWriteDeadline(time.Now().Add(c.writeTimeout)); err != nil {
		return err
	}
	c.writer.WriteString(line) // a bufio.Writer keeps its error for Flush
	c.writer.WriteByte('\n')
	return c.writer.Flush()
}

// Close implements Communicator; the second call returns what the first did.
func (c *TCPCommunicator) Close() error { return c.close() }
