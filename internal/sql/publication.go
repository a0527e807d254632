package sql

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/tiergate/tiergate/internal/loops"
)

// publication is one as it should be: its tables, and what it publishes.
type publication struct {
	name    string
	publish string
	tables  []string // quoted
}

// OwnWatches are the sidecar's own tables that the stream carries: what it, or a function, has written there is
// a fact like any other.
func (s *Session) OwnWatches() []loops.Watch { return s.ownWatches(s.Database) }

// OwnWatches are those of PostgreSQL.
func OwnWatches() []loops.Watch { return postgres{}.ownWatches("") }

func ownWatches(schema, prefix string, types map[string]string) []loops.Watch {
	column := func(name string) loops.Column { return loops.Column{Name: name, Type: types[name]} }
	return []loops.Watch{
		{Role: loops.Events, Schema: schema, Table: prefix + "access_event", Columns: map[loops.Field]loops.Column{loops.FieldID: column("id")}},
		{Role: loops.Grants, Schema: schema, Table: prefix + "access_grant", Key: []string{"id"},
			Columns: map[loops.Field]loops.Column{loops.FieldID: column("id"), loops.FieldSubject: column("subject_id"), loops.FieldPeriodEnd: column("ended_at")}},
	}
}

func publications(o InstallOptions) []publication {
	usage := publication{name: UsagePublication, publish: "insert"}
	state := publication{name: StatePublication, publish: "insert, update, delete, truncate"}
	watches := append(OwnWatches(), o.Watches...)
	for i := range watches {
		w := &watches[i]
		p := &usage
		if w.State() {
			p = &state
		}
		p.tables = append(p.tables, ident(w.Schema, w.Table))
	}
	for _, p := range []*publication{&usage, &state} { // a table may have two roles
		slices.Sort(p.tables)
		p.tables = slices.Compact(p.tables)
	}
	return []publication{usage, state}
}

// publicationStatements creates what is missing and sets right what somebody altered. A publication
// must be older than the slot: the stream looks it up in the catalog of its own time.
func publicationStatements(ctx context.Context, conn *Session, o InstallOptions) (steps []string, err error) {
	for _, want := range publications(o) {
		var exists, right bool
		var schemas, names []string
		err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = $1),
				EXISTS (SELECT FROM pg_publication WHERE pubname = $1 AND pubviaroot AND NOT puballtables
					AND concat_ws(', ', CASE WHEN pubinsert THEN 'insert' END, CASE WHEN pubupdate THEN 'update' END,
						CASE WHEN pubdelete THEN 'delete' END, CASE WHEN pubtruncate THEN 'truncate' END) = $2),
				coalesce(array_agg(n.nspname::text ORDER BY c.oid), '{}'), coalesce(array_agg(c.relname::text ORDER BY c.oid), '{}')
			FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid JOIN pg_class c ON c.oid = r.prrelid
				JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE p.pubname = $1 AND r.prqual IS NULL AND r.prattrs IS NULL`, want.name, want.publish).Scan(&exists, &right, &schemas, &names)
		if err != nil {
			return nil, explain("look at the publications", err)
		}
		have := make([]string, len(names))
		for i := range names {
			have[i] = ident(schemas[i], names[i])
		}
		slices.Sort(have)
		options := fmt.Sprintf("(publish = '%s', publish_via_partition_root = true)", want.publish)
		switch {
		case !exists:
			steps = append(steps, "CREATE PUBLICATION "+want.name+" FOR TABLE "+strings.Join(want.tables, ", ")+" WITH "+options)
			continue
		case !right:
			steps = append(steps, "ALTER PUBLICATION "+want.name+" SET "+options)
		}
		if !slices.Equal(have, want.tables) {
			steps = append(steps, "ALTER PUBLICATION "+want.name+" SET TABLE "+strings.Join(want.tables, ", "))
		}
	}
	return steps, nil
}

// PublicationState identifies the publications as they are now: a stream read under others does not
// join. A table that left and came back is another membership, and an option that was changed and set
// right again is another version of the row: rows may be missing in between. A table that was renamed may
// have been swapped for another one. A partition that was attached brings rows that no stream has shown:
// unlike one that was made as a partition, it is older than its membership.
func PublicationState(ctx context.Context, conn *Session) (string, error) {
	var text string
	err := conn.QueryRow(ctx, `SELECT coalesce(string_agg(concat(p.oid, '.', p.xmin, ':',
			(SELECT string_agg(concat(r.oid, '=', n.nspname, '.', c.relname, (
					SELECT string_agg('+' || i.inhrelid, '' ORDER BY i.inhrelid) FROM pg_partition_tree(c.oid) t
						JOIN pg_inherits i ON i.inhrelid = t.relid AND NOT i.inhdetachpending
						JOIN pg_attribute a ON a.attrelid = t.relid AND a.attname = 'tableoid' AND a.xmin <> i.xmin
				)), ',' ORDER BY r.oid)
			FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE r.prpubid = p.oid)), ' ' ORDER BY p.pubname), '')
		FROM pg_publication p WHERE p.pubname = ANY($1)`, []string{UsagePublication, StatePublication}).Scan(&text)
	return digest(text), explain("look at the publications", err)
}
