package config

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core"
)

// maxPrefixes is how many prefixes of clients a service may have: each takes some
// 200 bytes of memory, in the kernel and here.
const maxPrefixes = 1 << 20

// clients reads who a service takes. Services with the same lists share what follows
// from them.
func (v *validator) clients(key string, raw *rawService, s *core.Service) {
	allow, deny := v.prefixFile(key+".allow_file", raw.AllowFile), v.prefixFile(key+".deny_file", raw.DenyFile)
	s.Allow, s.Deny = v.prefixes(key+".allow", raw.Allow), v.prefixes(key+".deny", raw.Deny)
	s.AllowFile, s.DenyFile = allow.ClientFile, deny.ClientFile
	if raw.AllowFile != "" && !allow.failed && len(allow.prefixes)+len(s.Allow) == 0 {
		v.failf(key+".allow_file", "%s lists nobody: the service would take no client at all, or everybody (remove the key)", allow.Path)
	}
	same := fmt.Sprint(s.Allow, s.Deny, allow.Path, deny.Path)
	if c, ok := v.lists[same]; ok {
		s.Clients = c
		return
	}
	if n := len(s.Allow) + len(allow.prefixes) + len(s.Deny) + len(deny.prefixes); n > maxPrefixes {
		v.failf(key, "%d prefixes of clients are too many (at most %d)", n, maxPrefixes)
		return
	}
	var err error
	if s.Clients, err = core.NewClients(slices.Concat(s.Allow, allow.prefixes), slices.Concat(s.Deny, deny.prefixes)); err != nil {
		v.failf(key, "%w: one of allow and deny must leave it out", err)
		return
	}
	if v.lists == nil {
		v.lists = map[string]*core.Clients{}
	}
	v.lists[same] = s.Clients
}

func (v *validator) prefixes(key string, list []string) (out []netip.Prefix) {
	for i, s := range list {
		p, err := clientPrefix(s)
		if err != nil {
			v.failf(fmt.Sprintf("%s[%d]", key, i), "%w", err)
			continue
		}
		out = append(out, p)
	}
	return out
}

// clientPrefix reads a network, or an address.
func clientPrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, addrErr := netip.ParseAddr(s)
		if addrErr != nil || a.Zone() != "" {
			return p, fmt.Errorf("%q is not a network or an address of clients (like \"192.0.2.0/24\" or \"2001:db8::1\")", s)
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if p.Addr().Is4In6() {
		return p, fmt.Errorf("%q is of IPv4, written as IPv6, and would match nobody (write it like \"192.0.2.0/24\")", s)
	}
	return p.Masked(), nil
}

// prefixFile is what a file of prefixes holds.
type prefixFile struct {
	core.ClientFile
	prefixes []netip.Prefix
	failed   bool // it could not be read, and that was said
}

// prefixFile reads a file with a prefix in each line, and comments from # on, once.
func (v *validator) prefixFile(key, path string) (f prefixFile) {
	if path == "" {
		return f
	}
	path = v.beside(path)
	if f, ok := v.files[path]; ok {
		return f
	}
	f.Path = path
	if err := f.read(); err != nil {
		f.failed = true
		v.failf(key, "%w", err)
	}
	if v.files == nil {
		v.files = map[string]prefixFile{}
	}
	v.files[path] = f
	return f
}

// maxList is how long a file of prefixes may be, bytes: a million of the longest.
const maxList = 64 << 20

// readList reads a regular file of a length that can be: others may never end.
func readList(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO would wait for a writer
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file", path)
	case info.Size() > maxList:
		return nil, fmt.Errorf("%s is %d bytes long, more than any list may be (%d)", path, info.Size(), maxList)
	}
	return io.ReadAll(io.LimitReader(f, maxList))
}

func (f *prefixFile) read() error {
	data, err := readList(f.Path)
	if err != nil {
		return err
	}
	line := 0
	for text := range strings.Lines(string(data)) {
		line++
		text, _, _ = strings.Cut(text, "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		p, err := clientPrefix(text)
		if err != nil {
			return fmt.Errorf("%s:%d: %w", f.Path, line, err)
		}
		f.prefixes = append(f.prefixes, p)
	}
	sum := sha256.Sum256(data)
	f.Sum = fmt.Sprintf("%d prefixes, SHA-256 %x…", len(f.prefixes), sum[:8])
	return nil
}
