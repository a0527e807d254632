package config

import (
	"fmt"
	"io"
	"log/slog"
)

// Secret is a value that is never printed: formatted, logged or marshalled it is "***". Convert it
// with string(s) where it is used.
type Secret string

// String returns "***", or nothing where the secret is not set.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "***"
}

// Format prints String for every verb: %d and %#v would show the value otherwise.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue keeps the secret out of logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText keeps the secret out of JSON and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
