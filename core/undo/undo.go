// Package undo remembers how to take back what was done.
package undo

import "errors"

// Stack is what there is to take back. The zero value is empty.
type Stack []func() error

// Add remembers what takes the step back that was just done.
func (s *Stack) Add(f func() error) { *s = append(*s, f) }

// Undo takes everything back, the last step first, whatever fails.
func (s *Stack) Undo() (err error) {
	for i := len(*s) - 1; i >= 0; i-- {
		err = errors.Join(err, (*s)[i]())
	}
	*s = nil
	return err
}
