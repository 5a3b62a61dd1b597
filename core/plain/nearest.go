package plain

import (
	"cmp"
	"slices"
	"strings"
)

// maxNear is how many words Nearest returns.
const maxNear = 5

// Nearest returns the words of a list that s was probably meant to be, the nearest first:
// those that contain it or are in it, and those that a few letters changed, left out, put
// in, or swapped with their neighbour make of it, a third of them at most.
func Nearest(s string, list []string) []string {
	type near struct {
		word string
		d    int
	}
	var found []near
	for _, w := range list {
		d := distance(strings.ToLower(s), strings.ToLower(w))
		if len(s) > 1 && strings.Contains(w, s) || len(w) > 1 && strings.Contains(s, w) {
			d = min(d, 1)
		}
		if d <= max(1, len(s)/3) {
			found = append(found, near{w, d})
		}
	}
	slices.SortStableFunc(found, func(a, b near) int { return cmp.Compare(a.d, b.d) })
	var out []string
	for _, f := range found[:min(maxNear, len(found))] {
		out = append(out, f.word)
	}
	return out
}

// DidYouMean returns a question for the end of an error, "" when no word is near.
func DidYouMean(s string, list []string) string {
	if near := Nearest(s, list); len(near) > 0 {
		return "; did you mean " + strings.Join(near, ", ") + "?"
	}
	return ""
}

// distance returns the optimal string alignment distance of two words: V. Levenshtein's
// (1965), and neighbours that are swapped count as one change.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, last[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
