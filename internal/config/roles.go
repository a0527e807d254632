package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/tiergate/tiergate/internal/loops"
)

// roleRule says how the table of one role is recognised.
type roleRule struct {
	role    loops.Role
	name    string   // of the setting: "tables.usage"
	tables  []string // usual names, the best first
	columns []columnRule
	setting func(*Settings) *TableSetting
	absent  string // what it means that there is none; empty: it has to be there
}

// columnRule says how one column is recognised.
type columnRule struct {
	field    loops.Field
	names    []string // usual names, the best first, in snake case
	fits     func(typ string) bool
	want     string // what fits, for messages
	required bool
	strict   bool // a usual name with a type that does not fit is an error; else it is another column
}

// roles lists the tables of the application that are watched, in the order of loops.Role.
func roles() []roleRule {
	anything := func(string) bool { return true }
	optional := func(f loops.Field, names ...string) columnRule {
		return columnRule{field: f, names: names, fits: anything}
	}
	subject := func(names ...string) columnRule {
		return columnRule{field: loops.FieldSubject, names: names, fits: isIdentity, want: "text, varchar, uuid or an integer type", required: true, strict: true}
	}
	timestamp := func(f loops.Field, names ...string) columnRule {
		return columnRule{field: f, names: names, fits: isTimestamp, want: "a timestamp type"}
	}
	return []roleRule{{
		role: loops.Usage, name: "tables.usage", tables: []string{"usage", "usages"},
		setting: func(s *Settings) *TableSetting { return &s.Usage },
		columns: []columnRule{
			subject("user_id"),
			optional(loops.FieldEndpoint, "endpoint", "path", "route"),
			optional(loops.FieldMethod, "method"),
			optional(loops.FieldFeature, "feature"),
			{field: loops.FieldQuantity, names: []string{"quantity"}, fits: isInteger, want: "an integer type", strict: true},
			timestamp(loops.FieldAt, "created_at", "timestamp", "occurred_at"),
			{field: loops.FieldStatus, names: []string{"status", "status_code"}, fits: isInteger, want: "an integer type"},
			{field: loops.FieldCount, fits: isInteger, want: "an integer type"}, // never guessed: it changes what a row is
		},
	}, {
		role: loops.Subscriptions, name: "tables.subscriptions", tables: []string{"subscriptions", "subscription"},
		setting: func(s *Settings) *TableSetting { return &s.Subscriptions },
		absent:  "everybody is on the free tier",
		columns: []columnRule{
			subject("user_id"),
			optional(loops.FieldStatus, "status"),
			optional(loops.FieldPlan, "plan", "tier"),
			optional(loops.FieldPrice, "price", "price_id", "stripe_price_id"),
			timestamp(loops.FieldPeriodStart, "period_start", "current_period_start"),
			timestamp(loops.FieldPeriodEnd, "period_end", "current_period_end"),
			optional(loops.FieldCustomer, "customer", "stripe_customer_id", "customer_id"),
		},
	}, {
		role: loops.Users, name: "tables.users", tables: []string{"users", "user"},
		setting: func(s *Settings) *TableSetting { return &s.Users },
		absent:  "nobody can be mailed, and a subject gets its rows with its first use",
		columns: []columnRule{
			subject("id"),
			optional(loops.FieldEmail, "email"),
			optional(loops.FieldName, "name", "full_name", "display_name"),
			optional(loops.FieldCustomer, "stripe_customer_id", "customer_id"),
		},
	}}
}

// orNone is the end of a hint: the way out where a table only looks like one of ours.
func (rule roleRule) orNone() string {
	if rule.absent == "" {
		return ""
	}
	return fmt.Sprintf(", or set %s to %s", rule.name, NoTable)
}

// Types are spelled as format_type prints them.

func isInteger(typ string) bool {
	return slices.Contains([]string{"smallint", "integer", "bigint"}, typ)
}

func isIdentity(typ string) bool {
	base, _, _ := strings.Cut(typ, "(")
	return isInteger(typ) || slices.Contains([]string{"text", "uuid", "citext", "character varying"}, base)
}

func isTimestamp(typ string) bool {
	return regexp.MustCompile(`^timestamp(\(\d\))? with(out)? time zone$`).MatchString(typ)
}
