package plain

// Nearest returns the word of a list that s was probably meant to be: the one with the
// fewest letters changed, left out, put in, or swapped with their neighbour, a third of
// them at most. It is "" when none is near.
func Nearest(s string, list []string) (word string) {
	least := max(1, len(s)/3) + 1
	for _, w := range list {
		if d := distance(s, w); d < least {
			word, least = w, d
		}
	}
	return word
}

// DidYouMean returns a question for the end of an error, "" when no word is near.
func DidYouMean(s string, list []string) string {
	if w := Nearest(s, list); w != "" {
		return "; did you mean " + w + "?"
	}
	return ""
}

// distance returns the optimal string alignment distance of two words.
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
