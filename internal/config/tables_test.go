package config

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tiergate/tiergate/internal/loops"
)

// table reads a table from one line: "public.usage: id bigint, user_id text; key id"; "v " in front
// makes it a view.
func table(line string) CatalogTable {
	name, rest, _ := strings.Cut(line, ":")
	rest, key, _ := strings.Cut(rest, "; key ")
	t := CatalogTable{Kind: 'r'}
	if kind, plain, ok := strings.Cut(name, " "); ok && len(kind) == 1 {
		t.Kind, name = rune(kind[0]), plain
	}
	t.Schema, t.Name, _ = strings.Cut(name, ".")
	for part := range strings.SplitSeq(rest, ",") {
		column, typ, _ := strings.Cut(strings.TrimSpace(part), " ")
		typ = strings.NewReplacer("timestamptz", "timestamp with time zone", "timestamp3", "timestamp(3) without time zone",
			"varchar", "character varying(255)").Replace(typ)
		t.Columns = append(t.Columns, CatalogColumn{Name: column, Type: typ})
	}
	if key != "" {
		t.Key = strings.Fields(key)
	}
	if len(t.Key) == 1 {
		t.Unique = t.Key
	}
	return t
}

// described prints a watch in one line, its fields in order.
func described(w loops.Watch) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s.%s:", w.Schema, w.Table)
	for f := loops.FieldSubject; f <= loops.FieldCount; f++ {
		if c, ok := w.Columns[f]; ok {
			fmt.Fprintf(&b, " %s=%s", f, c.Name)
		}
	}
	if w.Key != nil {
		fmt.Fprintf(&b, " key=%s", strings.Join(w.Key, "+"))
	}
	return b.String()
}

const (
	usageLine = "public.usage: id bigint, user_id text, endpoint text, method text, created_at timestamptz; key id"
	subsLine  = "public.subscriptions: id text, user_id text, status text, plan text; key id"
	usersLine = "public.users: id text, email text, name text; key id"
)

func columns(pairs ...string) map[loops.Field]string {
	fields := map[string]loops.Field{"subject": loops.FieldSubject, "endpoint": loops.FieldEndpoint, "feature": loops.FieldFeature,
		"quantity": loops.FieldQuantity, "count": loops.FieldCount, "at": loops.FieldAt, "status": loops.FieldStatus, "email": loops.FieldEmail, "period_end": loops.FieldPeriodEnd}
	set := map[loops.Field]string{}
	for i := 0; i < len(pairs); i += 2 {
		set[fields[pairs[i]]] = pairs[i+1]
	}
	return set
}

// monthly is a policy of one loop with a period.
func monthly(trigger loops.Trigger) []loops.Loop {
	return []loops.Loop{{Feature: "calls", Source: "skene.config.ts:3:5", Trigger: trigger, Window: loops.Window{Kind: loops.Anchored}}}
}

func TestRecognise(t *testing.T) {
	api := loops.Trigger{Kind: loops.OnAPI, Endpoint: "/api/*"}
	post := loops.Trigger{Kind: loops.OnAPI, Endpoint: "/api/*", Method: "POST"}
	onFeature := loops.Trigger{Kind: loops.OnFeature}
	noSubs := "no subscriptions table: everybody is on the free tier; set tables.subscriptions"
	noUsers := "no users table: nobody can be mailed, and a subject gets its rows with its first use; set tables.users"
	tests := []struct {
		name     string
		catalog  []string
		settings Settings
		schema   string // default public
		trigger  loops.Trigger
		want     []string
		notes    []string
	}{
		{"conventional", []string{usageLine, subsLine, usersLine, "tiergate.usage: user_id text", "public.feature_access: subject_id text"}, Settings{}, "", post, []string{
			"public.usage: subject=user_id endpoint=endpoint method=method at=created_at",
			"public.subscriptions: subject=user_id status=status plan=plan key=id",
			"public.users: subject=id email=email name=name key=id"}, nil},
		{"Prisma", []string{`public.Usage: id integer, userId text, path text, method text, quantity integer, createdAt timestamp3, statusCode integer; key id`,
			`public.Subscription: userId uuid, tier text, stripePriceId text, currentPeriodStart timestamp3, currentPeriodEnd timestamp3, stripeCustomerId text, status public."Status"; key userId`,
			`public.User: id uuid, email varchar, fullName text, stripeCustomerId text; key id`}, Settings{}, "", api, []string{
			"public.Usage: subject=userId endpoint=path method=method quantity=quantity at=createdAt status=statusCode",
			"public.Subscription: subject=userId status=status plan=tier price=stripePriceId period_start=currentPeriodStart period_end=currentPeriodEnd customer=stripeCustomerId key=userId",
			"public.User: subject=id customer=stripeCustomerId email=email name=fullName key=id"}, nil},
		{"only usage", []string{usageLine}, Settings{}, "", api, []string{"public.usage: subject=user_id endpoint=endpoint method=method at=created_at"}, []string{noSubs, noUsers}},
		{"exact spelling first", []string{"public.Usage: user_id text, created_at timestamptz", "public.usages: user_id text", "public.usage: user_id text, userId text, endpoint text, created_at timestamptz, createdAt text"},
			Settings{}, "", api, []string{"public.usage: subject=user_id endpoint=endpoint at=created_at"}, []string{noSubs, noUsers}},
		{"the application's schema first", []string{"other.usage: user_id text", "shop.Usage: userid text, route text, timestamp timestamptz", "public.usage: user_id text"},
			Settings{}, "shop", api, []string{"shop.Usage: subject=userid endpoint=route at=timestamp"}, []string{noSubs, noUsers}},
		{"usage in the only schema that has it", []string{"metering.usage: user_id bigint, endpoint text, occurred_at timestamptz", "metering.users: id bigint, email text; key id"},
			Settings{}, "", api, []string{"metering.usage: subject=user_id endpoint=endpoint at=occurred_at", "metering.users: subject=id email=email key=id"}, []string{noSubs}},
		{"Supabase's auth.users is not the application's", []string{usageLine, "auth.users: id uuid, email varchar; key id"}, Settings{}, "", api,
			[]string{"public.usage: subject=user_id endpoint=endpoint method=method at=created_at"},
			[]string{noSubs, "no users table: nobody can be mailed, and a subject gets its rows with its first use; auth.users is in another schema, set tables.users: auth.users to watch it"}},
		{"but it may be named", []string{usageLine, "auth.users: id uuid, email varchar; key id"}, Settings{Users: TableSetting{Table: "auth.users"}}, "", api,
			[]string{"public.usage: subject=user_id endpoint=endpoint method=method at=created_at", "auth.users: subject=id email=email key=id"}, []string{noSubs}},
		{"switched off", []string{usageLine, "public.subscriptions: email text", "v public.users: id text"},
			Settings{Subscriptions: TableSetting{Table: "none"}, Users: TableSetting{Table: "none"}}, "", api,
			[]string{"public.usage: subject=user_id endpoint=endpoint method=method at=created_at"}, nil},
		{"configured", []string{usageLine, `metering.Api Calls: account uuid, "x" text, url text, n bigint, moment timestamptz, code smallint`, usersLine},
			Settings{Usage: TableSetting{`metering."Api Calls"`, columns("subject", "account", "endpoint", `"url"`, "quantity", "N", "at", "moment", "status", "code")},
				Subscriptions: TableSetting{Table: "none"}}, "", api,
			[]string{"metering.Api Calls: subject=account endpoint=url quantity=n at=moment status=code", "public.users: subject=id email=email name=name key=id"}, nil},
		{"configured in another case", []string{"public.ApiCalls: user_id text, endpoint text, created_at timestamptz", "other.apicalls: user_id text"},
			Settings{Usage: TableSetting{Table: "public.apicalls"}}, "", api, []string{"public.ApiCalls: subject=user_id endpoint=endpoint at=created_at"}, []string{noSubs, noUsers}},
		{"configured, the application's schema first", []string{"a.calls: user_id text", "public.calls: user_id text, endpoint text, created_at timestamptz"},
			Settings{Usage: TableSetting{Table: "calls"}}, "", api, []string{"public.calls: subject=user_id endpoint=endpoint at=created_at"}, []string{noSubs, noUsers}},
		{"partitioned", []string{"p public.usage: user_id text, endpoint text, created_at timestamptz"}, Settings{}, "", api,
			[]string{"public.usage: subject=user_id endpoint=endpoint at=created_at"}, []string{noSubs, noUsers}},
		{"partitioned users", []string{usageLine, "p public.users: region text, id text, email text; key region id"}, Settings{}, "", api,
			[]string{"public.usage: subject=user_id endpoint=endpoint method=method at=created_at", "public.users: subject=id email=email key=region+id"},
			[]string{noSubs, "nothing in public.users keeps id unique: of two rows with one id, the later one has name and address, and the delete of either ends the person"}},
		{"by feature", []string{"public.usage: user_id text, feature text, created_at timestamptz"}, Settings{}, "", onFeature,
			[]string{"public.usage: subject=user_id feature=feature at=created_at"}, []string{"public.usage has no endpoint column: its rows are matched by feature", noSubs, noUsers}},
		{"every row", []string{"public.usage: user_id text, created_at timestamptz"}, Settings{}, "", onFeature, []string{"public.usage: subject=user_id at=created_at"},
			[]string{"public.usage has neither an endpoint nor a feature column: every row counts; set tables.usage.endpoint or tables.usage.feature to count some", noSubs, noUsers}},
		{"no method column", []string{"public.usage: user_id text, endpoint text, created_at timestamptz"}, Settings{}, "", post, []string{"public.usage: subject=user_id endpoint=endpoint at=created_at"},
			[]string{"public.usage has no method column: requests to an endpoint count whatever their method; set tables.usage.method", noSubs, noUsers}},
		{"columns that only sound right", []string{"public.usage: user_id text, endpoint text, timestamp bigint, occurred_at timestamptz, status text", usersLine,
			"public.subscriptions: user_id text, status text, current_period_end bigint; key user_id"}, Settings{}, "", api,
			[]string{"public.usage: subject=user_id endpoint=endpoint at=occurred_at", "public.subscriptions: subject=user_id status=status key=user_id", "public.users: subject=id email=email name=name key=id"},
			[]string{"public.usage: status is text, and not an integer type: not used as tables.usage.status",
				"public.subscriptions: current_period_end is bigint, and not a timestamp type: not used as tables.subscriptions.period_end"}},
		{"users without email", []string{usageLine, subsLine, "public.users: id text; key id"}, Settings{}, "", api,
			[]string{"public.usage: subject=user_id endpoint=endpoint method=method at=created_at", "public.subscriptions: subject=user_id status=status plan=plan key=id", "public.users: subject=id key=id"},
			[]string{"public.users has no email column: nobody can be mailed; set tables.users.email"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.schema == "" {
				test.schema = "public"
			}
			watches, notes, err := Recognise(catalog(test.catalog), test.schema, test.settings, monthly(test.trigger))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, w := range watches {
				got = append(got, described(w))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(test.notes, notes); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func catalog(lines []string) []CatalogTable {
	var tables []CatalogTable
	for _, line := range lines {
		tables = append(tables, table(line))
	}
	return tables
}

func TestRecogniseProblems(t *testing.T) {
	tests := []struct {
		name     string
		catalog  []string
		settings Settings
		trigger  loops.TriggerKind
		want     []string
	}{
		{"no table at all", nil, Settings{}, loops.OnAPI, []string{"there is no table called usage or usages; there is no table at all", "set tables.usage: NAME in sidecar.yaml, or TIERGATE_TABLES_USAGE=NAME"}},
		{"no usage table", []string{"public.events: id bigint", "other.things: id bigint", usersLine}, Settings{}, loops.OnAPI, []string{"there is events, other.things, users"}},
		{"several usage tables", []string{"public.Usage: user_id text", "public.USAGE: user_id text"}, Settings{}, loops.OnAPI, []string{"tables.usage: several tables could be meant: public.Usage, public.USAGE", "set tables.usage: public.Usage"}},
		{"several schemas", []string{"a.usage: user_id text", "b.usage: user_id text"}, Settings{}, loops.OnAPI, []string{"could be meant: a.usage, b.usage"}},
		{"named table missing", []string{usageLine}, Settings{Usage: TableSetting{Table: "usge"}}, loops.OnAPI, []string{"tables.usage: there is no table usge; there is usage", "did you mean usage?"}},
		{"quoted table in another case", []string{usageLine}, Settings{Usage: TableSetting{Table: `"Usage"`}}, loops.OnAPI, []string{`there is no table "Usage"`, "did you mean usage?"}},
		{"named table in no schema", []string{usageLine}, Settings{Usage: TableSetting{Table: "other.usage"}}, loops.OnAPI, []string{"there is no table other.usage"}},
		{"three parts", []string{usageLine}, Settings{Usage: TableSetting{Table: "db.public.usage"}}, loops.OnAPI, []string{"there is no table db.public.usage"}},
		{"none for usage", []string{usageLine}, Settings{Usage: TableSetting{Table: "none"}}, loops.OnAPI, []string{"there is no table none"}},
		{"our own tables", []string{"tiergate.usage: user_id text"}, Settings{}, loops.OnAPI, []string{"there is no table at all"}},
		{"view", []string{"v public.usage: user_id text"}, Settings{}, loops.OnAPI, []string{"watch public.usage: it is a view", "set tables.usage to the table behind it"}},
		{"foreign table", []string{usageLine, "f public.users: id text"}, Settings{}, loops.OnAPI, []string{"watch public.users: it is a foreign table", "or set tables.users to none"}},
		{"no subject", []string{"public.usage: org_id text, endpoint text, created_at timestamptz"}, Settings{}, loops.OnAPI,
			[]string{"tables.usage.subject: public.usage has no column called user_id", "set tables.usage.subject to one of: org_id, endpoint, created_at"}},
		{"no subject in what may be another's", []string{usageLine, "public.subscriptions: email text; key email"}, Settings{}, loops.OnAPI,
			[]string{"tables.subscriptions.subject: public.subscriptions has no column called user_id", "or set tables.subscriptions to none"}},
		{"subject's type", []string{"public.usage: user_id jsonb, endpoint text, created_at timestamptz"}, Settings{}, loops.OnAPI,
			[]string{"public.usage: user_id is jsonb, and not text, varchar, uuid or an integer type"}},
		{"several subjects", []string{"public.usage: userId text, userid text, created_at timestamptz"}, Settings{}, loops.OnAPI,
			[]string{"public.usage has several columns that could be meant: userId and userid", "set tables.usage.subject: userId"}},
		{"no time", []string{"public.usage: user_id text, endpoint text"}, Settings{}, loops.OnAPI, []string{"tables.usage.at: public.usage has no column called created_at, timestamp, occurred_at", "or leave the loops' period out"}},
		{"time's type", []string{"public.usage: user_id text, endpoint text, created_at bigint"}, Settings{}, loops.OnAPI, []string{"tables.usage.at: public.usage: created_at is bigint, and not a timestamp type"}},
		{"date", []string{"public.usage: user_id text, endpoint text, created_at date"}, Settings{}, loops.OnAPI, []string{"created_at is date, and not a timestamp type"}},
		{"named time's type", []string{usageLine}, Settings{Usage: TableSetting{Columns: columns("at", "id")}}, loops.OnAPI, []string{"tables.usage.at: public.usage.id is bigint, and not a timestamp type"}},
		{"quantity's type", []string{"public.usage: user_id text, endpoint text, created_at timestamptz, quantity numeric"}, Settings{}, loops.OnAPI, []string{"quantity is numeric, and not an integer type"}},
		{"named status's type", []string{usageLine}, Settings{Usage: TableSetting{Columns: columns("status", "method")}}, loops.OnAPI, []string{"public.usage.method is text, and not an integer type"}},
		{"named column missing", []string{usageLine}, Settings{Usage: TableSetting{Columns: columns("endpoint", "endpont")}}, loops.OnAPI,
			[]string{"tables.usage.endpoint: public.usage has no column endpont; it has id, user_id, endpoint, method, created_at", "did you mean endpoint?"}},
		{"named column with a dot", []string{usageLine}, Settings{Usage: TableSetting{Columns: columns("endpoint", "method.x")}}, loops.OnAPI, []string{"has no column method.x"}},
		{"feature trigger", []string{usageLine}, Settings{}, loops.OnFeature, []string{"watch public.usage: a loop triggers on a feature, and the table has no feature column", "set tables.usage.feature"}},
		{"users without key", []string{usageLine, "public.users: id text, email text"}, Settings{}, loops.OnAPI,
			[]string{"watch public.users: it has no primary key", "own UPDATE would fail", `ALTER TABLE "public"."users" ADD PRIMARY KEY ("id")`, `ALTER TABLE "public"."users" REPLICA IDENTITY USING INDEX`}},
		{"users who may be two", []string{usageLine, "public.users: tenant text, id text, email text; key tenant id"}, Settings{}, loops.OnAPI,
			[]string{"watch public.users: nothing keeps id unique", `CREATE UNIQUE INDEX CONCURRENTLY ON "public"."users" ("id")`, "or set tables.users.subject", "or set tables.users to none"}},
		{"subscriptions without key", []string{usageLine, `public.Sub"scription: user_id text, status text`}, Settings{Subscriptions: TableSetting{Table: `"Sub""scription"`}}, loops.OnAPI,
			[]string{`ALTER TABLE "public"."Sub""scription" ADD PRIMARY KEY ("user_id")`}},
		{"all at once", []string{"public.usage: x text", "public.users: x text", "public.subscriptions: x text; key x"}, Settings{}, loops.OnAPI,
			[]string{"tables.usage.subject", "tables.usage.at", "tables.subscriptions.subject", "tables.users.subject", "watch public.users"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := Recognise(catalog(test.catalog), "public", test.settings, monthly(loops.Trigger{Kind: test.trigger}))
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range test.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q is not in:\n%v", part, err)
				}
			}
			var f *loops.Fault
			if !errors.As(err, &f) || f.Kind != loops.Permanent {
				t.Errorf("no permanent fault: %v", err)
			}
		})
	}
}

func TestRecogniseWithoutTime(t *testing.T) {
	watches, _, err := Recognise(catalog([]string{"public.usage: user_id text, endpoint text, created_at bigint"}), "public", Settings{}, nil)
	if err != nil || len(watches) != 1 || watches[0].Has(loops.FieldAt) {
		t.Errorf("got %v, %v", watches, err)
	}
}

func TestRecogniseZoneAndTypes(t *testing.T) {
	zone := time.FixedZone("shop", 3600)
	watches, _, err := Recognise(catalog([]string{usageLine, usersLine}), "public", Settings{Zone: zone}, monthly(loops.Trigger{}))
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range watches {
		if w.Zone != zone {
			t.Errorf("%s: zone %v", w.Table, w.Zone)
		}
	}
	if got := watches[0].Columns[loops.FieldAt]; got.Type != "timestamp with time zone" {
		t.Errorf("at is %v", got)
	}
	if watches[0].Role != loops.Usage || watches[0].Key != nil || watches[1].Role != loops.Users {
		t.Errorf("got %+v", watches)
	}
}

func TestOverviewIsShort(t *testing.T) {
	var lines []string
	for i := range 100 {
		lines = append(lines, fmt.Sprintf("public.t%d: id text", i))
	}
	_, _, err := Recognise(catalog(lines), "public", Settings{}, nil)
	if err == nil || !strings.Contains(err.Error(), "t19 and 80 more") {
		t.Errorf("got %v", err)
	}
}
