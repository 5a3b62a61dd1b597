package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/caplance/caplance/plugins/workbench/scaffold"
)

var newTool = tool{
	name: "new", takes: "NAME", operands: 1,
	summary: "start a policy: source, SDK, Makefile, test vectors",
	example: "  caplance policy new mine -lang c && make -C mine\n",
	flags: func(inv *invocation) {
		inv.options = inv.fs.String("lang", "", "`LANGUAGE`: "+strings.Join(scaffold.Languages(), ", "))
	},
	run: func(_ context.Context, inv *invocation) error {
		language := *inv.options.(*string)
		if language == "" {
			return inv.usage(errors.New("-lang is missing: one of " + strings.Join(scaffold.Languages(), ", ")))
		}
		files, err := scaffold.New(inv.operands[0], language)
		if err != nil {
			return err
		}
		return inv.show(&started{inv.operands[0], files})
	},
}

// started is what new has written.
type started struct {
	Folder string   `json:"folder"`
	Files  []string `json:"files"`
}

func (s *started) Print(w io.Writer) error {
	for _, f := range s.Files {
		fmt.Fprintf(w, "wrote %s\n", f)
	}
	name := filepath.Base(s.Folder)
	_, err := fmt.Fprintf(w, `
Build and check it:  make -C %[1]s
Look at its shares:  make -C %[1]s simulate
Let it take over:    caplancectl policy swap SERVICE %[1]s/%[2]s.wasm
`, s.Folder, name)
	return err
}
