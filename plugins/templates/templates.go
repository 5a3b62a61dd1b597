// Package templates holds what caplance policy new starts an author with: one
// source file for each language, its Makefile, and picks to hold it to. All
// languages have the same policy.
//
// The files end in .txt so that no tool takes them for what they will be;
// @NAME@ stands for the policy's name.
package templates

import "embed"

// Files has a folder for each language, and vectors.json for all.
//
//go:embed vectors.json c go rust assemblyscript wat
var Files embed.FS
