package cdc

import (
	"strings"

	"github.com/tiergate/tiergate/internal/loops"
)

// A binlog tells of statements in their own words: of all that changes tables, and of rows where a session
// has turned row format off. What they mean for a watched table is read from their first words and from the
// names in them; a name that is only mentioned counts as meant.

// meaning is what a statement does to a watched table.
type meaning int

const (
	meansNothing meaning = iota
	meansAltered         // its columns may be others now
	meansEmptied         // rows left it without a word
	meansLost            // rows came into it, or another table came into its place
	meansWritten         // rows were written in statement format
)

// statement is a query of the binlog, taken apart.
type statement struct {
	words    []string // names without quotes, key words and marks as they stand
	database string   // where names without one are looked up
}

func parseStatement(query, database string) statement {
	return statement{words: words(query, nil), database: database}
}

// words splits a statement. Strings and comments are left out, but for comments that servers execute.
func words(query string, to []string) []string {
	for query != "" {
		c := query[0]
		switch {
		case strings.HasPrefix(query, "/*!"), strings.HasPrefix(query, "/*M!"):
			inner, rest, _ := strings.Cut(query, "*/")
			inner = strings.TrimLeft(inner[strings.IndexByte(inner, '!')+1:], "0123456789")
			to, query = words(inner, to), rest
		case strings.HasPrefix(query, "/*"):
			_, query, _ = strings.Cut(query[2:], "*/")
		case c == '#', strings.HasPrefix(query, "-- "):
			_, query, _ = strings.Cut(query, "\n")
		case c == '\'':
			_, query = quoted(query)
		case c == '`', c == '"':
			var name string
			name, query = quoted(query)
			to = append(to, name)
		case isWordByte(c):
			n := 1
			for n < len(query) && isWordByte(query[n]) {
				n++
			}
			to, query = append(to, query[:n]), query[n:]
		case c <= ' ':
			query = query[1:]
		default:
			to, query = append(to, query[:1]), query[1:]
		}
	}
	return to
}

func isWordByte(c byte) bool {
	return c == '_' || c == '$' || c >= 0x80 || (c >= '0' && c <= '9') || (c|0x20 >= 'a' && c|0x20 <= 'z')
}

// quoted takes a quoted part off the front; a quote is written twice, or in strings after a backslash.
func quoted(s string) (inner, rest string) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && s[0] != '`' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case s[i] != s[0]:
			b.WriteByte(s[i])
		case i+1 < len(s) && s[i+1] == s[0]:
			b.WriteByte(s[i])
			i++
		default:
			return b.String(), s[i+1:]
		}
	}
	return b.String(), ""
}

// is reports whether the words from the i-th on are these, in any case.
func (s statement) is(i int, these ...string) bool {
	for k, word := range these {
		if i+k >= len(s.words) || !strings.EqualFold(s.words[i+k], word) {
			return false
		}
	}
	return true
}

// after returns the place after those of these words that stand from the i-th on, in any order.
func (s statement) after(i int, these ...string) int {
	for i < len(s.words) && s.oneOf(i, these) {
		i++
	}
	return i
}

func (s statement) oneOf(i int, these []string) bool {
	for _, word := range these {
		if s.is(i, word) {
			return true
		}
	}
	return false
}

// names reports whether the words from the i-th on name the table.
func (s statement) names(i int, w *loops.Watch) bool {
	if s.is(i+1, ".") {
		return s.is(i, w.Schema) && s.is(i+2, w.Table)
	}
	return s.is(i, w.Table) && strings.EqualFold(s.database, w.Schema) && (i == 0 || s.words[i-1] != ".")
}

// mentions reports whether the table is named anywhere.
func (s statement) mentions(w *loops.Watch) bool {
	for i := range s.words {
		if s.names(i, w) {
			return true
		}
	}
	return false
}

// means tells what the statement does to a watched table.
func (s statement) means(w *loops.Watch) meaning {
	switch {
	case s.is(0, "DROP", "DATABASE") || s.is(0, "DROP", "SCHEMA"):
		if s.is(s.after(2, "IF", "EXISTS"), w.Schema) {
			return meansLost
		}
		return meansNothing
	case !s.mentions(w):
		return meansNothing
	case s.is(0, "TRUNCATE"):
		return emptied(w)
	case s.is(0, "CREATE"):
		return s.creates(w)
	case s.is(0, "ALTER"):
		return s.alters(w)
	case s.is(0, "DROP"):
		i := s.after(1, "ONLINE", "OFFLINE")
		switch {
		case s.is(i, "TABLE"), s.is(i, "TABLES"):
			return meansLost
		case s.is(i, "INDEX"):
			return meansAltered
		}
		return meansNothing
	case s.is(0, "RENAME", "TABLE"), s.is(0, "RENAME", "TABLES"):
		return meansLost
	case s.is(0, "INSERT"), s.is(0, "REPLACE"):
		if s.names(s.after(1, "LOW_PRIORITY", "DELAYED", "HIGH_PRIORITY", "IGNORE", "INTO"), w) {
			return meansWritten
		}
		return meansNothing
	case s.oneOf(0, []string{"UPDATE", "DELETE", "LOAD", "WITH", "CALL", "SET", "IMPORT"}):
		return meansWritten
	default:
		return meansNothing
	}
}

// emptied is what it means that rows leave without a word: of what is only appended to, nothing.
func emptied(w *loops.Watch) meaning {
	if w.State() {
		return meansEmptied
	}
	return meansNothing
}

func (s statement) creates(w *loops.Watch) meaning {
	replaces := s.is(1, "OR", "REPLACE")
	i := s.after(1, "OR", "REPLACE", "UNIQUE", "FULLTEXT", "SPATIAL", "ONLINE", "OFFLINE")
	switch {
	case s.is(i, "INDEX"):
		return meansAltered
	case !s.is(i, "TABLE"):
		return meansNothing
	case replaces && s.names(s.after(i+1, "IF", "NOT", "EXISTS"), w):
		return meansLost
	default:
		return meansAltered
	}
}

func (s statement) alters(w *loops.Watch) meaning {
	i := s.after(1, "ONLINE", "OFFLINE", "IGNORE")
	if !s.is(i, "TABLE") {
		return meansNothing
	}
	for k := i + 1; k < len(s.words); k++ {
		switch {
		case s.is(k, "RENAME") && !s.oneOf(k+1, []string{"COLUMN", "INDEX", "KEY"}),
			s.is(k, "EXCHANGE", "PARTITION"), s.is(k, "IMPORT"), s.is(k, "CONVERT", "TABLE"):
			return meansLost
		case s.is(k, "DROP", "PARTITION"), s.is(k, "TRUNCATE", "PARTITION"), s.is(k, "DISCARD"), s.is(k, "CONVERT", "PARTITION"):
			return max(meansAltered, emptied(w))
		}
	}
	return meansAltered
}
