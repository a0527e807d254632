//go:build tinybatches

package sql

// For tests: everything that is done piece by piece is, however few subjects there are.
const (
	chunk = 3
	piece = 2
)
