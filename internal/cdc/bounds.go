//go:build !tinybatches

package cdc

const (
	// maxPending bounds what gathers while a batch commits, in row messages.
	maxPending = 50_000
	// farBytes of WAL behind, or more, a stream catches up in chunks: a chunk is worth its cost then.
	farBytes = 16 << 20
	// chunkBytes of WAL are asked for at a time.
	chunkBytes = 64 << 20
	// spanBytes of WAL are decoded by one call at most.
	spanBytes = 1 << 30
)
