package mail

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/tiergate/tiergate/internal/loops"
)

// longestName is what a greeting prints of a name, in characters.
const longestName = 60

// functions are what a template may call beside Go's own.
func functions() map[string]any {
	return map[string]any{
		"date":    date,
		"left":    left,
		"number":  number,
		"percent": percent,
		"words":   words,
	}
}

func functionNames() []string { return slices.Sorted(maps.Keys(functions())) }

// date prints a moment as "31 March 2026, 09:59 UTC"; nothing for the zero time, so that
// {{with date .ResetsAt}} asks whether there is one.
func date(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2 January 2006, 15:04 UTC")
}

// left is what remains of a limit.
func left(used, limit int64) int64 { return max(0, limit-used) }

// number prints 12,345.
func number(n int64) string {
	digits := strconv.FormatInt(n, 10)
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// percent is the filled part of a usage bar: 0 to 100, and 100 only at the limit.
func percent(used, limit int64) int64 {
	if used >= limit {
		return 100
	}
	return min(99, int64(float64(max(0, used))/float64(limit)*100))
}

// words prints a feature's name for people: pdf_exports is "pdf exports".
func words(feature string) string {
	return strings.Join(strings.FieldsFunc(feature, func(r rune) bool { return r == '_' || r == '-' || r == ' ' }), " ")
}

// cleaned makes the data safe to print: people choose their own names. One line each, but for the
// message; a name that holds a link is none, for it would turn a prompt into somebody's advertisement.
func cleaned(d loops.PromptData) loops.PromptData {
	for _, s := range []*string{&d.Name, &d.Email, &d.Subject, &d.Feature, &d.Tier, &d.UpgradeURL} {
		*s = oneLine(*s)
	}
	d.Message = printable(d.Message)
	if strings.Contains(d.Name, "://") || strings.Contains(strings.ToLower(d.Name), "www.") {
		d.Name = ""
	}
	if runes := []rune(d.Name); len(runes) > longestName {
		d.Name = strings.TrimSpace(string(runes[:longestName])) + "…"
	}
	return d
}

// oneLine folds all white space and drops what does not print.
func oneLine(s string) string { return strings.Join(strings.Fields(printable(s)), " ") }

// printable makes control characters spaces, keeps line feeds, and drops the characters that turn
// the direction of the text around them.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.Is(unicode.Bidi_Control, r):
			return -1
		case unicode.IsControl(r) && r != '\n':
			return ' '
		default:
			return r
		}
	}, strings.ToValidUTF8(s, "\uFFFD"))
}
