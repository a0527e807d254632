package sql

import (
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// mysqlText turns statements into MySQL's. They are written for PostgreSQL, in what both understand, given a session with ANSI quotes,
// || for text and no backslashes, and in these:
//
//	tiergate.NAME, tiergate.now()        tables of the sidecar, and its clock
//	$1, $1::timestamptz                  an argument, as often as it is named
//	= ANY($1), <> ALL($1)                a slice
//	ON CONFLICT (…) DO UPDATE SET … EXCLUDED.column
//	FOR NO KEY UPDATE
//
// A statement without $ has its arguments in order, at ?.
type mysqlText struct {
	words *regexp.Regexp
	clock string // what tiergate.now() is
}

func newMySQLText() *mysqlText {
	return &mysqlText{words: regexp.MustCompile(strings.Join([]string{
		`'(?:[^']|'')*'`, `"(?:[^"]|"")*"`, // constants and names stay
		`(= ANY|<> ALL) ?\(\$(\d+)\)`, `\$(\d+)((?:::\w+)?)`,
		`tiergate\.now\(\)`, `\btiergate\.`, `ON CONFLICT \([^)]*\) DO UPDATE SET`, `EXCLUDED\.(\w+)`, `FOR NO KEY UPDATE`,
	}, "|"))}
}

// asksClock reports whether a statement asks the sidecar's clock.
func (*mysqlText) asksClock(query string) bool { return strings.Contains(query, ownSchema+".now()") }

// of returns a statement as MySQL takes it.
func (t *mysqlText) of(query string, args []any) (string, []any) {
	var b strings.Builder
	var given []any
	last, numbered := 0, false
	for _, m := range t.words.FindAllStringSubmatchIndex(query, -1) {
		word := query[m[0]:m[1]]
		group := func(i int) string {
			if m[2*i] < 0 {
				return ""
			}
			return query[m[2*i]:m[2*i+1]]
		}
		b.WriteString(query[last:m[0]])
		last = m[1]
		switch {
		case word[0] == '\'' || word[0] == '"':
			b.WriteString(word)
		case group(1) != "":
			numbered = true
			values := reflect.ValueOf(args[place(group(2))])
			b.WriteString(map[string]string{"= ANY": "IN (", "<> ALL": "NOT IN ("}[group(1)])
			if values.Len() == 0 {
				b.WriteString("SELECT 1 FROM DUAL WHERE FALSE")
			}
			for i := range values.Len() {
				given = append(given, fitting(values.Index(i).Interface()))
				b.WriteString([]string{"?", ",?"}[min(i, 1)])
			}
			b.WriteString(")")
		case group(3) != "":
			numbered = true
			given = append(given, fitting(args[place(group(3))]))
			b.WriteString(map[bool]string{true: "CAST(? AS DATETIME(6))", false: "?"}[group(4) == "::timestamptz"])
		case strings.HasSuffix(word, "now()"):
			b.WriteString(t.clock)
		case word == ownSchema+".":
			b.WriteString(ownSchema + "_")
		case strings.HasPrefix(word, "ON CONFLICT"):
			b.WriteString("ON DUPLICATE KEY UPDATE")
		case strings.HasPrefix(word, "EXCLUDED."):
			fmt.Fprintf(&b, "VALUES(%s)", group(5))
		default:
			b.WriteString("FOR UPDATE")
		}
	}
	b.WriteString(query[last:])
	if !numbered {
		given = args
	}
	return b.String(), given
}

// fitting is an argument as MySQL holds it: its times begin with the year 1000, whose first moment is none to us (see latest).
func fitting(arg any) any {
	first := time.Date(1000, 1, 2, 0, 0, 0, 0, time.UTC)
	if at, ok := arg.(time.Time); ok && at.Before(first) {
		return first
	}
	return arg
}

// place is an argument's, from its number.
func place(number string) int {
	n, _ := strconv.Atoi(number) // digits
	return n - 1
}
