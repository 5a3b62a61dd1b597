package protocol

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// MaxName is the length of the longest name of a backend or service.
const MaxName = 63

// ValidName reports whether s can name a backend or a service: 1 to MaxName of
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

func upDown(up bool) string {
	if up {
		return "up"
	}
	return "down"
}

// String returns the line that Parse reads back as r. Options with their default
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
		option("offers", "yes", !r.Offers)
		option("connections", "yes", !r.Tells)
		option("proofs", "yes", !r.Proofs)
		option("checks", "yes", !r.Checks)
		option("tag", r.Tag, r.Tag == "")
		option("state", r.State.String(), r.State == 0)
	case Connections:
		words = append(words, r.Name, r.Nonce)
	case Service:
		words = append(words, strings.Join(r.Services, ","), upDown(r.Up))
		if !r.Up && r.Reason != "" {
			words = append(words, r.Reason)
		}
	case Join:
		words = append(words, hex.EncodeToString(r.Secret))
	case Sane:
		words = append(words, r.Nonce)
	case Health:
		words = append(words, strconv.Itoa(r.Code))
		option("load", r.Load, r.Load == "")
		option("offer", fmt.Sprint(r.Offer), r.Offer == 0)
		option("proof", echoes(r.Echoes), len(r.Echoes) == 0)
	default:
		if r.Name != "" {
			words = append(words, r.Name)
		}
	}
	return strings.Join(words, " ")
}
