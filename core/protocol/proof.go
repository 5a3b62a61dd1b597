package protocol

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ProofPrefix begins the datagrams that prove the data path while a backend is
// registered; a nonce follows, and perhaps a blank and padding.
const ProofPrefix = "PROOF "

// MaxEchoes is how many datagrams one HEALTH names at most.
const MaxEchoes = 8

// Echo says that a PROOF datagram has arrived.
type Echo struct {
	Nonce string
	Held  time.Duration // from its arrival to the HEALTH, whole microseconds
}

// echoes reads proof=<nonce>:<µs>,…
func (r *Request) echoes(value string) error {
	for word := range strings.SplitSeq(value, ",") {
		nonce, held, ok := strings.Cut(word, ":")
		us, err := strconv.ParseUint(held, 10, 32)
		if !ok || nonce == "" || err != nil || len(r.Echoes) == MaxEchoes {
			return fmt.Errorf("proof %s is not up to %d of NONCE:MICROSECONDS", clip(value), MaxEchoes)
		}
		r.Echoes = append(r.Echoes, Echo{nonce, time.Duration(us) * time.Microsecond})
	}
	return nil
}

func echoes(list []Echo) string {
	words := make([]string, len(list))
	for i, e := range list {
		words[i] = e.Nonce + ":" + strconv.FormatInt(e.Held.Microseconds(), 10)
	}
	return strings.Join(words, ",")
}
