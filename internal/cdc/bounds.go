//go:build !tinybatches

package cdc

const (
	// maxPending bounds what gathers while a batch commits, in row messages.
	maxPending = 50_000
	// farBytes of WAL behind, or more, a stream catches up in chunks.
	farBytes = 16 << 20
	// chunkBytes of WAL are asked for at a time: decoding them takes about as long as applying two full
	// buffers, and goes on meanwhile.
	chunkBytes = 64 << 20
	// spanBytes of WAL are decoded by one call at most, and bound what it puts into temporary files.
	spanBytes = 512 << 20
	// bigTransaction is how many messages a transaction has on average from which on streaming is faster.
	bigTransaction = 50
)
