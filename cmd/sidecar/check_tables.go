package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tiergate/tiergate/internal/loops"
	"github.com/tiergate/tiergate/internal/sql"
)

// large is how many rows a usage table may have before a scan of it is worth a warning.
const large = 1_000_000

// tables looks at the watched tables and at what is installed. Only where all of them were recognised
// can be said what install would do.
func (k *checkup) tables(ctx context.Context, conn *sql.Session, v sql.Server, p *prepared, complete bool) {
	for _, note := range p.notes {
		k.warn("tables", "", "%s", note)
	}
	for _, w := range p.applicationTables() {
		k.ok(tableOf(w.Role), "%s", mapping(&w))
	}
	missing := 0
	if complete {
		missing = k.installation(ctx, conn, v, p)
	}
	k.group = "Rights"
	var readable []loops.Watch
	foreign := map[string][]string{} // tables by their owner
	for _, w := range p.applicationTables() {
		r, err := sql.RightsOn(ctx, conn, &w)
		if err != nil {
			k.faults(w.Table, err)
			continue
		}
		if k.rights(v, &w, r) {
			readable = append(readable, w)
		}
		if name := w.Schema + "." + w.Table; !r.Owned && !slices.Contains(foreign[r.Owner], name) {
			foreign[r.Owner] = append(foreign[r.Owner], name)
		}
	}
	if missing > 0 {
		for _, owner := range slices.Sorted(maps.Keys(foreign)) {
			k.fail("publications", "let "+owner+" run what this prints, once: sidecar install --print",
				"%s owns %s: %s may not publish their changes", owner, strings.Join(foreign[owner], ", "), v.User)
		}
	}
	for _, w := range readable {
		if w.Role == loops.Subscriptions {
			k.subscriptions(ctx, conn, &w, p.plan)
		}
	}
}

func tableOf(r loops.Role) string {
	return map[loops.Role]string{loops.Usage: "usage", loops.Subscriptions: "subscriptions", loops.Users: "users"}[r]
}

// mapping tells which column holds what.
func mapping(w *loops.Watch) string {
	var parts []string
	for _, f := range slices.Sorted(maps.Keys(w.Columns)) {
		parts = append(parts, fmt.Sprintf("%s = %s", f, w.Columns[f].Name))
	}
	text := fmt.Sprintf("%s.%s: %s", w.Schema, w.Table, strings.Join(parts, ", "))
	if w.Gauge() {
		text += "; a gauge: what a subject's rows hold is what is used"
	}
	return text
}

// installation says what stands in the database. It returns how many statements install would run.
func (k *checkup) installation(ctx context.Context, conn *sql.Session, v sql.Server, p *prepared) (missing int) {
	k.group = "Installation"
	have, err := sql.LookAtInstallation(ctx, conn, p.install())
	switch {
	case err != nil:
		k.faults("installation", err)
	case have.Version == 0:
		k.ok("installation", "none yet: `sidecar run` (or install) runs %s", plural(have.Missing, "statement"))
	case !have.Access:
		k.warn("installation", "nothing to do: the next run makes it again, and counts again", "%s.feature_access was dropped", p.schema)
	case have.Missing > 0:
		k.ok("installation", "`sidecar run` (or install) brings it up to date with %s", plural(have.Missing, "statement"))
	default:
		k.ok("installation", "this version is installed")
	}
	if have.Version > 0 {
		fault, err := sql.CheckHome(ctx, conn)
		k.faults("outbox", err)
		if fault != nil {
			k.demote("outbox", fault)
		}
	}
	if have.Missing > 0 {
		k.altered(ctx, conn, p)
		k.mayInstall(ctx, conn, v, p.schema)
	}
	if have.Version > 0 {
		k.exposure(ctx, conn, v, p)
		k.protections(ctx, conn)
		k.consumers(ctx, conn, p)
	}
	return have.Missing
}

// consumers says who may use the strict features.
func (k *checkup) consumers(ctx context.Context, conn *sql.Session, p *prepared) {
	if !slices.ContainsFunc(p.plan.Loops, func(l loops.Loop) bool { return l.Enforcement == loops.Strict }) {
		return
	}
	roles, err := sql.Consumers(ctx, conn)
	k.faults("consume_feature", err)
	if len(roles) > 0 {
		k.ok("consume_feature", "may be called by %s", strings.Join(roles, ", "))
	}
}

// altered says what is wrong with publications that somebody changed: rows are missing in the stream.
func (k *checkup) altered(ctx context.Context, conn *sql.Session, p *prepared) {
	steps, err := sql.Altered(ctx, conn, p.install())
	k.faults("publications", err)
	if len(steps) > 0 {
		k.warn("publications", "the next run does this, and counts again: "+strings.Join(steps, "; ")+";", "somebody altered them, or the watched tables are others now: changes are missing in the stream")
	}
}

// exposure looks for what a later GRANT … ON ALL TABLES, or row-level security, did to what install had set.
func (k *checkup) exposure(ctx context.Context, conn *sql.Session, v sql.Server, p *prepared) {
	access := sql.Quote(p.schema, "feature_access")
	hidden, err := sql.Hidden(ctx, conn, p.schema)
	k.faults("feature_access", err)
	if hidden {
		k.fail("feature_access", fmt.Sprintf("CREATE POLICY tiergate ON %s TO %s USING (true) WITH CHECK (true);", access, sql.Quote(v.User)),
			"row-level security hides rows of it from %s", v.User)
	}
	roles, err := sql.Exposed(ctx, conn, p.schema)
	k.faults("exposure", err)
	for _, e := range roles {
		var may []string
		rights, door := "ALL", fmt.Sprintf(" REVOKE ALL ON SCHEMA tiergate FROM PUBLIC, %s;", sql.Quote(e.Role))
		if slices.Contains(p.settings.AppRoles, e.Role) { // it is meant to read
			e.Reads, e.Calls = false, false
			rights, door = "INSERT, UPDATE, DELETE, TRUNCATE", ""
		}
		fix := fmt.Sprintf("REVOKE %s ON %s FROM PUBLIC, %s; REVOKE ALL ON ALL TABLES IN SCHEMA tiergate FROM PUBLIC, %[3]s;", rights, access, sql.Quote(e.Role)) + door
		for what, is := range map[string]bool{"read feature_access": e.Reads, "write feature_access": e.Writes, "call tiergate's functions": e.Calls, "reach tiergate's tables": e.Inside} {
			if is {
				may = append(may, what)
			}
		}
		slices.Sort(may)
		if len(may) > 0 {
			k.fail("exposure", fix, "role %s, as which the Data API serves its callers, may %s", e.Role, strings.Join(may, ", "))
		}
	}
}

// mayInstall looks at the rights that only installing takes.
func (k *checkup) mayInstall(ctx context.Context, conn *sql.Session, v sql.Server, schema string) {
	role := sql.Quote(v.User)
	if !v.MayCreate {
		k.fail("right to install", fmt.Sprintf("GRANT CREATE ON DATABASE %s TO %s;%s", sql.Quote(v.Database), role, orPrint), "%s may not create schemas and publications", v.User)
	}
	exists, use, create, err := sql.SchemaRights(ctx, conn, schema)
	switch {
	case err != nil:
		k.faults("schema "+schema, err)
	case !exists:
		k.fail("schema "+schema, "name the application's schema: DATABASE_URL=…?schema=NAME", "it does not exist")
	case !use || !create:
		k.fail("schema "+schema, fmt.Sprintf("GRANT USAGE, CREATE ON SCHEMA %s TO %s;%s", sql.Quote(schema), role, orPrint), "%s may not create feature_access there", v.User)
	}
}

// orPrint is the other way out of a missing right to install.
const orPrint = "\nor let an owner run what this prints, once: sidecar install --print"

// rights looks at what the sidecar's role may do with one table, and reports whether it may be read.
func (k *checkup) rights(v sql.Server, w *loops.Watch, r sql.Rights) (readable bool) {
	table, role := sql.Quote(w.Schema, w.Table), sql.Quote(v.User)
	about := w.Schema + "." + w.Table
	faults := k.count(problem)
	readable = r.MayUse && r.MayRead
	if !r.MayUse {
		k.fail(about, fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s;", sql.Quote(w.Schema), role), "%s may not use its schema", v.User)
	}
	if !r.MayRead {
		k.fail(about, fmt.Sprintf("GRANT SELECT ON %s TO %s;", table, role), "%s may not read it", v.User)
	}
	if r.Filtered {
		k.fail(about, fmt.Sprintf("CREATE POLICY tiergate ON %s FOR SELECT TO %s USING (true);", table, role), "row-level security hides rows of it from %s", v.User)
	}
	if w.Role == loops.Usage && !r.TimeIndex && r.Estimate > large {
		k.warn(about, fmt.Sprintf("CREATE INDEX CONCURRENTLY ON %s (%s);", table, sql.Quote(w.Columns[loops.FieldAt].Name)),
			"about %d rows and no index that begins with the time: each count reads them all", r.Estimate)
	}
	if k.count(problem) == faults {
		k.ok(about, "%s may read it", v.User)
	}
	return readable
}

// knownStatus reports whether a subscription's status is one that Stripe has, as it or others spell it.
func knownStatus(text string) bool {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "", "active", "trialing", "past_due", "canceled", "cancelled", "incomplete", "incomplete_expired", "unpaid", "paused":
		return true
	default:
		return false
	}
}

// subscriptions looks at what the table holds: words that nobody knows, and how plans will be read.
func (k *checkup) subscriptions(ctx context.Context, conn *sql.Session, w *loops.Watch, plan *loops.Plan) {
	k.group = "Subscriptions"
	if w.Has(loops.FieldStatus) {
		found, err := sql.Distinct(ctx, conn, w, loops.FieldStatus)
		k.faults("status", err)
		for _, values := range found {
			if !knownStatus(values[0]) {
				k.warn("status", "write Stripe's words: active, trialing and (for the time of grace) past_due pay", "%q is unknown: such a subscription does not pay", values[0])
			}
		}
	}
	if !w.Has(loops.FieldPlan) && !w.Has(loops.FieldPrice) {
		k.ok("plans", "no plan or price column: every subscription that pays is %q", loops.PayingTier)
		return
	}
	found, err := sql.Distinct(ctx, conn, w, loops.FieldPrice, loops.FieldPlan)
	k.faults("plans", err)
	for _, values := range found {
		k.tier(values[0], values[1], plan)
	}
}

// tier says which tier a price and a plan are read as.
func (k *checkup) tier(price, name string, plan *loops.Plan) {
	tier := plan.TierOf(price, name)
	about := "plan " + cmp.Or(name, "none")
	if price != "" {
		about += " (price " + price + ")"
	}
	for i := range plan.Loops {
		l := &plan.Loops[i]
		_, own := l.Limits[tier]
		if _, paying := l.Limits[loops.PayingTier]; !own && !paying && tier != loops.DefaultTier {
			k.warn(about, fmt.Sprintf("give limit an entry %s: N, or paid: N, in the loop of %s", tier, l.Feature),
				"is read as tier %s, for which feature %s has no limit: the free one holds", tier, l.Feature)
			return
		}
	}
	k.ok(about, "is read as tier %s", tier)
}
