package fastpath

import (
	"errors"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
)

// NeedsSysAdmin returns why the fast path needs CAP_SYS_ADMIN for as long as it
// lives, beside CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, "" if it does not, and whether
// it mounts or unmounts something. Limits that only CAP_SYS_RESOURCE raises are raised here.
func NeedsSysAdmin(stateDir string) (why string, mounts bool) {
	_ = rlimit.RemoveMemlock() // kernels before 5.11 account maps there; what cannot be had is told by who makes one
	for _, place := range []pinPlace{balancerPins, agentPins} {
		if own := filepath.Join(stateDir, place.own); isBPF(own) {
			return "a BPF file system is mounted at " + own + ", and unmounted at the end", true
		}
	}
	switch {
	case !isBPF(systemFS):
		return "no BPF file system is mounted at " + systemFS + ": one is mounted for this process, and unmounted at its end", true
	case errors.Is(featureTCX.Have(), ebpf.ErrNotSupported):
		return "kernels without tcx (before 6.6): filters are told apart by their programs' numbers", false
	}
	return "", false
}
