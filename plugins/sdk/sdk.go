// Package sdk holds the SDKs for policies, a folder for each language, so that
// caplance policy new can put a copy beside an author's source.
package sdk

import "embed"

// Files are the SDKs without their examples and tests.
//
//go:embed c/caplance.h rust/lib.rs assemblyscript/caplance.ts
//go:embed go/caplance.go go/guest.go go/native.go
var Files embed.FS
