package config

import (
	"slices"
	"strings"

	"github.com/tiergate/tiergate/internal/loops"
)

// usageColumns are the columns that the usage table needs or may have. Where a column holds the count, a
// row is no use that has a time, a quantity or a status: those are not looked for, and not to be set.
func (r *recogniser) usageColumns(rule roleRule) []columnRule {
	set := *rule.setting(&r.settings)
	periods := r.periods()
	if set.Columns[loops.FieldCount] == "" {
		at := slices.IndexFunc(rule.columns, func(c columnRule) bool { return c.field == loops.FieldAt })
		rule.columns[at].required = len(periods) > 0
		return rule.columns
	}
	count := rule.name + "." + loops.FieldCount.String()
	if len(periods) > 0 {
		r.fail(count, "leave period and window out of these loops, or leave "+count+" out and count rows",
			"a gauge has no window, and these loops have a period: %s", strings.Join(periods, ", "))
	}
	return slices.DeleteFunc(rule.columns, func(c columnRule) bool {
		ofRows := slices.Contains([]loops.Field{loops.FieldQuantity, loops.FieldAt, loops.FieldStatus}, c.field)
		if ofRows && set.Columns[c.field] != "" {
			r.fail(rule.name+"."+c.field.String(), "leave it out, or leave "+count+" out and count rows",
				"it is of rows that are uses, and %s is set: each row holds a count", count)
		}
		return ofRows
	})
}

// periods names the loops that have one.
func (r *recogniser) periods() (names []string) {
	for _, l := range r.policy {
		if l.Window.Kind != loops.Lifetime && l.Enforcement != loops.Strict { // which the gauge does not count
			names = append(names, l.Feature+" ("+l.Source+")")
		}
	}
	return names
}
