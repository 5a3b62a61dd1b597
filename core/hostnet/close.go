package hostnet

import (
	"errors"
	"os"
	"slices"
)

// Close undoes every change, the last one first, and removes the journal. What
// could not be undone is reported and stays in the file for a successor.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	var errs []error
	for _, c := range slices.Backward(slices.Clone(j.done)) {
		errs = append(errs, j.takeBack(c))
	}
	err := errors.Join(errs...)
	if err == nil {
		err = os.Remove(j.path) // before the lock goes with the file
	}
	err = errors.Join(err, j.file.Close())
	j.file, j.done = nil, nil
	return err
}

// Leave keeps every change, and the journal for a successor.
func (j *Journal) Leave() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.file, j.done = nil, nil
	return err
}
