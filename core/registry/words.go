package registry

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// MaxName is the length of the longest name of a backend or service.
const MaxName = 63

// ValidName says whether s can name a backend or a service: 1 to MaxName of
// the characters A–Z a–z 0–9 . _ -
func ValidName(s string) bool {
	return s != "" && len(s) <= MaxName && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.' && r != '_' && r != '-'
	})
}

func checkName(s string) error {
	if !ValidName(s) {
		return fmt.Errorf("name %s is not 1 to %d of A-Z a-z 0-9 . _ -", clip(s), MaxName)
	}
	return nil
}

// options hands the key=value words to set, in their order.
func options(words []string, set func(key, value string) error) error {
	for _, w := range words {
		key, value, ok := strings.Cut(w, "=")
		if !ok || key == "" {
			return fmt.Errorf("option %s is not key=value", clip(w))
		}
		if err := set(key, value); err != nil {
			return err
		}
	}
	return nil
}

// clip quotes a word of the other side for a message.
func clip(s string) string {
	const most = 40
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return strconv.Quote(s)
}

// String is the line that Parse reads back as r. Options with their default
// are left out, so that first-generation balancers see nothing but the verb
// they know unless the agent uses more.
func (r Request) String() string {
	words := []string{string(r.Verb)}
	option := func(key, value string, isDefault bool) {
		if !isDefault {
			words = append(words, key+"="+value)
		}
	}
	switch r.Verb {
	case Register:
		words = append(words, r.Name, r.Addr.String())
		option("services", strings.Join(r.Services, ","), r.Services == nil)
		option("weight", strconv.Itoa(int(r.Weight)), r.Weight == DefaultWeight)
		option("max_flows", fmt.Sprint(r.MaxFlows), r.MaxFlows == 0)
		option("priority", fmt.Sprint(r.Priority), r.Priority == 0)
		option("zone", fmt.Sprint(r.Zone), r.Zone == 0)
		option("label", fmt.Sprint(r.Label), r.Label == 0)
		option("decap", "kernel", !r.Kernel)
		option("mode", r.Mode.String(), r.Mode == 0)
		option("v", strconv.Itoa(r.Version), r.Version <= 1)
		option("state", r.State.String(), r.State == 0)
	case Sane:
		words = append(words, r.Nonce)
	case Health:
		words = append(words, strconv.Itoa(r.Code))
		option("load", r.Load, r.Load == "")
	default:
		if r.Name != "" {
			words = append(words, r.Name)
		}
	}
	return strings.Join(words, " ")
}

// What a balancer answers.
const (
	Registered   Verb = "REGISTERED"
	HealthAck    Verb = "HEALTHACK"
	Paused       Verb = "PAUSED"
	Draining     Verb = "DRAINING"
	Resumed      Verb = "RESUMED"
	Deregistered Verb = "DEREGISTERED"
	Invalid      Verb = "INVALID"
)

// Reply is a line from a balancer.
type Reply struct {
	Verb    Verb
	Text    string            // everything after the verb, verbatim
	Args    []string          // the words without "="
	Options map[string]string // the others
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
