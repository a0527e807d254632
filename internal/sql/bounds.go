//go:build !tinybatches

package sql

const (
	// chunk is how many subjects one transaction touches where we choose: small enough not to hold
	// anybody up.
	chunk = 5000
	// piece is how many it touches between two batches of the stream, which wait for it.
	piece = 1000
)
