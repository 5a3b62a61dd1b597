package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
)

// cpuTime returns what a process has used.
func cpuTime(pid int) (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	var user, system int64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil { // utime, stime (proc_pid_stat(5))
		return 0, fmt.Errorf("stat: %w", err)
	}
	return time.Duration(user+system) * time.Second / 100, nil // USER_HZ
}

// keys reads some lines "key: number …" of a file in /proc.
func keys(path string, wanted ...string) (map[string]int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := map[string]int64{}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		key, value, _ := strings.Cut(sc.Text(), ":")
		for _, w := range wanted {
			if key == w {
				var n int64
				fmt.Sscan(value, &n)
				out[key] = n
			}
		}
	}
	return out, nil
}

// resident returns a process' memory now and at its peak, bytes.
func resident(pid int) (now, peak int64, err error) {
	m, err := keys(fmt.Sprintf("/proc/%d/status", pid), "VmRSS", "VmHWM")
	return m["VmRSS"] << 10, m["VmHWM"] << 10, err
}

// kernelMap is a BPF map that a process holds.
type kernelMap struct{ id, kind, memory int64 }

// kernelMaps returns each once.
func kernelMaps(pid int) (map[int64]kernelMap, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil {
		return nil, err
	}
	out := map[int64]kernelMap{}
	for _, f := range files {
		m, err := keys(f, "map_id", "map_type", "memlock")
		if err == nil && m["map_id"] != 0 {
			out[m["map_id"]] = kernelMap{m["map_id"], m["map_type"], m["memlock"]}
		}
	}
	return out, nil
}

// kernelMemory returns what a process' BPF maps take, bytes.
func kernelMemory(pid int) (n int64, err error) {
	maps, err := kernelMaps(pid)
	for _, m := range maps {
		n += m.memory
	}
	return n, err
}

// traffic returns the bytes that have passed the balancer's link, both ways, with the
// headers of frames.
func (b *testbed) traffic() (n uint64, err error) {
	err = b.lb.Do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return fmt.Errorf("link eth0: %w", err)
		}
		s := l.Attrs().Statistics
		n = s.RxBytes + s.TxBytes
		return nil
	})
	return n, err
}
