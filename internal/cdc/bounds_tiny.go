//go:build tinybatches

package cdc

// For tests: almost every transaction is applied in pieces, and almost every stream begins by catching up.
const (
	maxPending     = 7
	farBytes       = 256
	chunkBytes     = 2 << 10
	spanBytes      = 1 << 20
	bigTransaction = 50
)
