//go:build tinybatches

package cdc

// maxPending is so small that almost every transaction is applied in pieces: for tests.
const maxPending = 7
