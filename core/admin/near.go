package admin

import (
	"cmp"
	"slices"
	"strings"
)

// maxNear names are shown for one that is not known.
const maxNear = 5

// nearest returns the names that are likely meant, the nearest first: those that
// contain it or begin alike, and those that few changes of a letter lead to.
func nearest(name string, all []string) []string {
	type near struct {
		name string
		d    int
	}
	var found []near
	for _, n := range all {
		d := distance(strings.ToLower(name), strings.ToLower(n))
		if strings.Contains(n, name) || strings.Contains(name, n) {
			d = min(d, 1)
		}
		if d <= max(2, len(name)/3) {
			found = append(found, near{n, d})
		}
	}
	slices.SortStableFunc(found, func(a, b near) int { return cmp.Compare(a.d, b.d) })
	var out []string
	for _, f := range found[:min(maxNear, len(found))] {
		out = append(out, f.name)
	}
	return out
}

// distance returns how many bytes to change, add or remove lead from a to b
// (V. Levenshtein, 1965).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
