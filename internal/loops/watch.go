package loops

import "time"

// Role is what a watched table means to the flow.
type Role int

// The tables the flow reacts to. Everything else in the stream is ignored.
const (
	Usage Role = iota
	Subscriptions
	Users
	Events // the sidecar's own access_event
	Grants // the sidecar's own access_grant
)

// Field is the meaning of a column, whatever the application calls it.
type Field int

// The fields of usage, subscription, user and event rows.
const (
	FieldSubject Field = iota
	FieldEndpoint
	FieldMethod
	FieldFeature
	FieldQuantity
	FieldAt
	FieldStatus
	FieldPlan
	FieldPrice
	FieldPeriodStart
	FieldPeriodEnd
	FieldCustomer
	FieldEmail
	FieldName
	FieldID    // of an event
	FieldCount // that the application keeps itself
)

// String returns the setting's name of a field: the f of tables.usage.f.
func (f Field) String() string {
	return [...]string{"subject", "endpoint", "method", "feature", "quantity", "at", "status", "plan", "price",
		"period_start", "period_end", "customer", "email", "name", "id", "count"}[f]
}

// Watch is one watched table, and which of its columns hold what. Names are spelled as the catalog
// spells them, without quotes.
type Watch struct {
	Role    Role
	Schema  string
	Table   string
	Columns map[Field]Column
	Key     []string       // columns of the replica identity; empty where only inserts are followed
	Zone    *time.Location // of timestamps without a zone
	Shape   string         // all columns, in the stream's words: other ones must be looked up again; empty: never
}

// Column is one column of a watched table.
type Column struct {
	Name string
	Type string // as format_type prints it: "text", "timestamp without time zone"
}

// Has reports whether the table has a column for the field.
func (w *Watch) Has(f Field) bool { _, ok := w.Columns[f]; return ok }

// Gauge reports whether the rows of a usage table are no events: each holds a count that the
// application keeps.
func (w *Watch) Gauge() bool { return w.Role == Usage && w.Has(FieldCount) }

// State reports whether the table's rows are what is now, so that updates and deletes matter, and not
// only inserts.
func (w *Watch) State() bool {
	return w.Role == Subscriptions || w.Role == Users || w.Role == Grants || w.Gauge()
}
