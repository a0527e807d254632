package sql

import (
	"strings"
	"testing"
)

func TestSlotNames(t *testing.T) {
	if got := SlotName("app_1"); got != "tiergate_app_1" {
		t.Errorf("a plain name: %s", got)
	}
	seen := map[string]string{}
	for _, database := range []string{"app", "App", "APP", "my-app", "my_app", "my app", "größe", strings.Repeat("a", 54), strings.Repeat("a", 55), strings.Repeat("a", 63)} {
		name := SlotName(database)
		if len(name) > 63 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
			t.Errorf("%q: %q is no slot's name", database, name)
		}
		if other, taken := seen[name]; taken {
			t.Errorf("%q and %q share slot %q", database, other, name)
		}
		seen[name] = database
	}
}
