package protocol

import (
	"errors"
	"fmt"
	"strings"
)

// What a balancer answers.
const (
	Registered   Verb = "REGISTERED"
	Offer        Verb = "OFFER" // unasked
	HealthAck    Verb = "HEALTHACK"
	Paused       Verb = "PAUSED"
	Draining     Verb = "DRAINING"
	Resumed      Verb = "RESUMED"
	Deregistered Verb = "DEREGISTERED"
	Joined       Verb = "JOINED"
	Invalid      Verb = "INVALID"
)

// Reply is a line from a balancer.
type Reply struct {
	Verb    Verb
	Text    string            // everything after the verb, verbatim
	Args    []string          // the words without "="
	Options map[string]string // the others
}

// Refuse returns the INVALID line for a reason, cut to the length that every
// agent reads.
func Refuse(reason error) string {
	line := fmt.Sprintf("%s %v", Invalid, reason)
	if len(line) > MaxRequest {
		line = strings.ToValidUTF8(line[:MaxRequest], "")
	}
	return line
}

// ParseReply reads a line from a balancer.
func ParseReply(line string) (Reply, error) {
	verb, text, _ := strings.Cut(strings.TrimSpace(line), " ")
	if verb == "" {
		return Reply{}, errors.New("answer is empty")
	}
	r := Reply{Verb: Verb(verb), Text: strings.TrimSpace(text), Options: map[string]string{}}
	for _, w := range strings.Fields(text) {
		if key, value, ok := strings.Cut(w, "="); ok && key != "" {
			r.Options[key] = value
		} else {
			r.Args = append(r.Args, w)
		}
	}
	return r, nil
}
