//go:build !tinybatches

package cdc

// maxPending bounds what gathers while a batch commits, in row messages.
const maxPending = 50_000
