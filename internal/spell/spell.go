// Package spell guesses which name somebody meant, for messages.
package spell

import "strings"

// Closest returns the name that a misspelt one most likely meant, or nothing: about every third
// letter may be wrong.
func Closest(name string, names []string) string {
	best, found := (len(name)+4)/3, ""
	for _, candidate := range names {
		if d := distance(strings.ToLower(name), strings.ToLower(candidate)); d < best || (d == best && found != "" && candidate < found) {
			best, found = d, candidate
		}
	}
	return found
}

// distance is how many letters have to be put in, left out or changed (Levenshtein).
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
