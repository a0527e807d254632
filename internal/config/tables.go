package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tiergate/tiergate/internal/loops"
)

// CatalogTable is one table or view of the application's database, as its catalog describes it.
type CatalogTable struct {
	Schema, Name string
	Columns      []CatalogColumn
	Key          []string // usable replica identity: columns of the primary key or of the identity index; all for FULL
	Unique       []string // columns of which no two rows hold the same value
	Shape        string   // all columns and their types, as the change stream tells them
	Kind         rune     // relkind: 'r' table, 'p' partitioned, 'v' view, 'm' materialised view, 'f' foreign
}

// CatalogColumn is one column; Type is what format_type prints.
type CatalogColumn struct {
	Name, Type string
}

// String returns the name as people write it.
func (t *CatalogTable) String() string { return t.Schema + "." + t.Name }

// quoted returns the name for a statement.
func (t *CatalogTable) quoted() string { return quoteName(t.Schema) + "." + quoteName(t.Name) }

func quoteName(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func (t *CatalogTable) column(name string) (CatalogColumn, bool) {
	i := slices.IndexFunc(t.Columns, func(c CatalogColumn) bool { return c.Name == name })
	if i < 0 {
		return CatalogColumn{}, false
	}
	return t.Columns[i], true
}

// Recognise finds the usage, subscriptions and users tables and their columns, by the settings and
// else by their usual names. schema is the application's, policy what its rows are counted for.
// notes are for people: what was not found or is not used, and what that means. Every problem is
// reported at once, each one a Fault with the setting or the statement that mends it.
func Recognise(catalog []CatalogTable, schema string, s Settings, policy []loops.Loop) (watches []loops.Watch, notes []string, err error) {
	r := recogniser{schema: schema, settings: s, policy: policy}
	for _, t := range catalog {
		if t.Schema != "tiergate" && t.Name != "feature_access" {
			r.catalog = append(r.catalog, t)
		}
	}
	for _, rule := range roles() {
		if rule.role == loops.Usage {
			rule.columns = r.usageColumns(rule)
		}
		if w, ok := r.watch(rule); ok {
			watches = append(watches, w)
			if rule.role == loops.Usage {
				r.usageSchema = w.Schema
				r.matching(&w)
			}
		}
	}
	return watches, r.notes, errors.Join(r.problems...)
}

type recogniser struct {
	catalog     []CatalogTable
	schema      string // the application's
	usageSchema string // once the usage table is found
	settings    Settings
	policy      []loops.Loop
	notes       []string
	problems    []error
}

func (r *recogniser) note(format string, args ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

func (r *recogniser) fail(step, hint, format string, args ...any) {
	r.problems = append(r.problems, &loops.Fault{Step: step, Err: fmt.Errorf(format, args...), Hint: hint})
}

// watch finds the table of a role and describes it. What is wrong with it is recorded.
func (r *recogniser) watch(rule roleRule) (loops.Watch, bool) {
	set := *rule.setting(&r.settings)
	if set.Table == NoTable && rule.absent != "" {
		return loops.Watch{}, false
	}
	table := r.table(rule, set.Table)
	if table == nil {
		return loops.Watch{}, false
	}
	faults := len(r.problems)
	if table.Kind != 'r' && table.Kind != 'p' {
		kind := map[rune]string{'v': "a view", 'm': "a materialised view", 'f': "a foreign table"}[table.Kind]
		r.fail("watch "+table.String(), "set "+rule.name+" to the table behind it"+rule.orNone(), "it is %s: its changes are not in this database's change stream", kind)
		return loops.Watch{}, false
	}
	w := loops.Watch{Role: rule.role, Schema: table.Schema, Table: table.Name, Columns: map[loops.Field]loops.Column{}, Zone: r.settings.Zone, Shape: table.Shape}
	for _, c := range rule.columns {
		if column, ok := r.column(rule, c, table, set.Columns[c.field]); ok {
			w.Columns[c.field] = loops.Column{Name: column.Name, Type: column.Type}
		}
	}
	if w.State() {
		w.Key = table.Key
		r.identity(rule, table, w.Columns[loops.FieldSubject].Name)
	}
	if rule.role == loops.Users {
		r.unique(rule, table, w.Columns[loops.FieldSubject].Name)
	}
	if rule.role == loops.Users && !w.Has(loops.FieldEmail) {
		r.note("%s has no email column: nobody can be mailed; set tables.users.email", table)
	}
	return w, len(r.problems) == faults
}

// identity makes sure that publishing the table's updates does not break the application's own.
func (r *recogniser) identity(rule roleRule, table *CatalogTable, subject string) {
	if len(table.Key) > 0 {
		return
	}
	key := "id"
	if _, ok := table.column(key); !ok {
		key = subject
	}
	hint := "give it one: ALTER TABLE " + table.quoted() + " REPLICA IDENTITY USING INDEX name_of_a_unique_index_on_not_null_columns;"
	if key != "" {
		hint = fmt.Sprintf("ALTER TABLE %s ADD PRIMARY KEY (%s); or, where it has a unique index on NOT NULL columns: ALTER TABLE %s REPLICA IDENTITY USING INDEX that_index;",
			table.quoted(), quoteName(key), table.quoted())
	}
	r.fail("watch "+table.String(), hint+rule.orNone(),
		"it has no primary key and no replica identity: once its updates are published, the application's own UPDATE would fail")
}

// unique makes sure that a person has one row: two would fight over name and address, and the end of one
// would be the end of the person.
func (r *recogniser) unique(rule roleRule, table *CatalogTable, subject string) {
	switch {
	case subject == "" || slices.Contains(table.Unique, subject):
	case len(table.Key) == 0: // said already, and a key mends both
	case table.Kind == 'p': // its unique indexes have to hold the partition key, which another column may be
		r.note("nothing in %s keeps %s unique: of two rows with one %s, the later one has name and address, and the delete of either ends the person", table, subject, subject)
	default:
		r.fail("watch "+table.String(), fmt.Sprintf("CREATE UNIQUE INDEX CONCURRENTLY ON %s (%s); or set %s.subject to the column that is unique%s",
			table.quoted(), quoteName(subject), rule.name, rule.orNone()),
			"nothing keeps %s unique: two rows of one person would fight over name and address, and the delete of one would end the person", subject)
	}
}

// matching says how usage rows find their loop, and refuses triggers that could not.
func (r *recogniser) matching(w *loops.Watch) {
	table := w.Schema + "." + w.Table
	endpoint, feature := w.Has(loops.FieldEndpoint), w.Has(loops.FieldFeature)
	onFeature := slices.ContainsFunc(r.policy, func(l loops.Loop) bool { return l.Trigger.Kind == loops.OnFeature })
	onMethod := slices.ContainsFunc(r.policy, func(l loops.Loop) bool { return l.Trigger.Method != "" })
	switch {
	case w.Gauge() && !endpoint && !feature && len(r.policy) < 2: // one count for one loop
	case !endpoint && !feature:
		r.note("%s has neither an endpoint nor a feature column: every row counts; set tables.usage.endpoint or tables.usage.feature to count some", table)
	case !endpoint:
		r.note("%s has no endpoint column: its rows are matched by feature", table)
	case !feature && onFeature:
		r.fail("watch "+table, "set tables.usage.feature to the column that names the feature, or trigger on the endpoint", "a loop triggers on a feature, and the table has no feature column")
	case !w.Has(loops.FieldMethod) && onMethod:
		r.note("%s has no method column: requests to an endpoint count whatever their method; set tables.usage.method", table)
	}
}
