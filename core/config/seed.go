package config

import (
	"crypto/sha256"
	"encoding/binary"
	"os"
)

// defaultSeed keys the flow hash of a service: not to be guessed from outside,
// and the same after a restart, so that consistent policies keep their flows.
func defaultSeed(service string) uint64 {
	id, err := os.ReadFile("/etc/machine-id")
	if err != nil || len(id) == 0 { // no such file in some containers
		id, _ = os.ReadFile("/proc/sys/kernel/random/boot_id")
	}
	sum := sha256.Sum256(append([]byte("caplance "+service+" "), id...))
	return binary.LittleEndian.Uint64(sum[:])
}
