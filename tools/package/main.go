// Command package makes a .deb and an .rpm of what `make install` puts into a directory.
//
//	make packages
//
// It is a module of its own: what it needs (nfpm) is nothing to those who build Caplance.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb"
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

func main() {
	root := flag.String("root", "", "`directory` that make install DESTDIR= has filled")
	out := flag.String("out", ".", "`directory` for the packages")
	version := flag.String("version", "", "`version`, as git describe has it")
	arch := flag.String("arch", "", "`architecture`, as Go names it")
	scripts := flag.String("scripts", ".", "`directory` of the maintainers' scripts")
	flag.Parse()
	if err := run(*root, *out, *version, *arch, *scripts); err != nil {
		fmt.Fprintln(os.Stderr, "package:", err)
		os.Exit(1)
	}
}

func run(root, out, version, arch, scripts string) error {
	if root == "" || version == "" || arch == "" {
		return errors.New("-root, -version and -arch are needed: run make packages")
	}
	contents, err := contents(root)
	if err != nil {
		return err
	}
	for _, format := range []string{"deb", "rpm"} {
		if err := write(format, out, info(contents, version, arch, scripts)); err != nil {
			return fmt.Errorf("%s: %w", format, err)
		}
	}
	return nil
}

// contents returns the files below root, those of /etc as configuration.
func contents(root string) (files.Contents, error) {
	var out files.Contents
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		dst := "/" + strings.TrimPrefix(strings.TrimPrefix(path, root), "/")
		c := &files.Content{Source: path, Destination: dst, FileInfo: &files.ContentFileInfo{Owner: "root", Group: "root"}}
		if strings.HasPrefix(dst, "/etc/") {
			c.Type = files.TypeConfigNoReplace
		}
		out = append(out, c)
		return nil
	})
	out = append(out, &files.Content{Destination: "/usr/share/doc/caplance", Type: files.TypeDir, FileInfo: &files.ContentFileInfo{Mode: 0o755}})
	if err == nil && len(out) == 1 {
		err = fmt.Errorf("directory %s is empty: run make packages", root)
	}
	return out, err
}

func info(contents files.Contents, version, arch, scripts string) *nfpm.Info {
	i := &nfpm.Info{
		Name: "caplance", Arch: arch, Platform: "linux", Version: version, VersionSchema: "semver", Section: "net", Priority: "optional",
		Maintainer:  "The Caplance authors <caplance@example.org>",
		Description: "Layer-4 load balancer with WASM scheduling policies\nThe balancer, the agent of its backends, and the command that asks and steers them.",
		License:     "Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)",
	}
	i.Contents = contents
	i.Scripts = nfpm.Scripts{PostInstall: filepath.Join(scripts, "postinstall.sh"), PreRemove: filepath.Join(scripts, "preremove.sh"), PostRemove: filepath.Join(scripts, "postremove.sh")}
	return i
}

func write(format, out string, i *nfpm.Info) (err error) {
	packager, err := nfpm.Get(format)
	if err != nil {
		return err
	}
	i = nfpm.WithDefaults(i)
	if err := nfpm.PrepareForPackager(i, format); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(out, packager.ConventionalFileName(i)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := packager.Package(i, f); err != nil {
		return err
	}
	fmt.Println(f.Name())
	return nil
}
