package spell_test

import (
	"testing"

	"github.com/tiergate/tiergate/internal/spell"
)

func TestClosest(t *testing.T) {
	names := []string{"period", "limit", "timezone", "warnAt"}
	for misspelt, want := range map[string]string{
		"perod": "period", "Limits": "limit", "timeZone": "timezone", "warnat": "warnAt", "colour": "", "": "",
	} {
		if got := spell.Closest(misspelt, names); got != want {
			t.Errorf("Closest(%q) = %q, want %q", misspelt, got, want)
		}
	}
}
