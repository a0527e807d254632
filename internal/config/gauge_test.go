package config

import (
	"slices"
	"strings"
	"testing"

	"github.com/tiergate/tiergate/internal/loops"
)

const countersLine = "public.counters: id bigint, user_id text, path text, hits integer, quantity integer, created_at timestamptz, status text; key id"

// counting are the settings of a usage table with a count.
func counting(table string, pairs ...string) Settings {
	return Settings{Usage: TableSetting{table, columns(pairs...)}, Subscriptions: TableSetting{Table: "none"}, Users: TableSetting{Table: "none"}}
}

func TestRecogniseGauge(t *testing.T) {
	lifetime := loops.Loop{Feature: "calls", Trigger: loops.Trigger{Kind: loops.OnAPI, Endpoint: "/api/*"}, Window: loops.Window{Kind: loops.Lifetime}}
	exports := loops.Loop{Feature: "exports", Trigger: loops.Trigger{Kind: loops.OnFeature}, Window: loops.Window{Kind: loops.Lifetime}}
	everyRow := "public.organizations has neither an endpoint nor a feature column: every row counts; set tables.usage.endpoint or tables.usage.feature to count some"
	withUsers := counting("users", "subject", "id", "count", "api_calls")
	withUsers.Users.Table = ""
	for name, c := range map[string]struct {
		catalog  []string
		settings Settings
		policy   []loops.Loop
		want     []string
		notes    []string
	}{
		"a column of the users table": {[]string{"public.users: id text, email text, api_calls bigint; key id"}, withUsers, []loops.Loop{lifetime},
			[]string{"public.users: subject=id count=api_calls key=id", "public.users: subject=id email=email key=id"}, nil},
		"one of another": {[]string{"public.organizations: id uuid, Seats smallint; key id"}, counting("organizations", "subject", "id", "count", "seats"), []loops.Loop{lifetime},
			[]string{"public.organizations: subject=id count=Seats key=id"}, nil},
		"one count for several loops": {[]string{"public.organizations: id uuid, seats integer; key id"},
			counting("organizations", "subject", "id", "count", "seats"), []loops.Loop{lifetime, lifetime}, nil, []string{everyRow}},
		"a row for each feature": {[]string{"public.quotas: user_id uuid, feature text, used bigint; key user_id feature"}, counting("quotas", "count", "used"), []loops.Loop{exports},
			[]string{"public.quotas: subject=user_id feature=feature count=used key=user_id+feature"}, []string{"public.quotas has no endpoint column: its rows are matched by feature"}},
		"columns of rows are not looked for": {[]string{countersLine}, counting("counters", "count", "hits", "endpoint", "path"), []loops.Loop{lifetime},
			[]string{"public.counters: subject=user_id endpoint=path count=hits key=id"}, nil},
		"never guessed": {[]string{"public.usage: user_id text, endpoint text, count bigint, created_at timestamptz; key id"}, counting(""), []loops.Loop{lifetime},
			[]string{"public.usage: subject=user_id endpoint=endpoint at=created_at"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			watches, notes, err := Recognise(catalog(c.catalog), "public", c.settings, c.policy)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, w := range watches {
				got = append(got, described(w))
			}
			if c.want != nil && !slices.Equal(got, c.want) {
				t.Errorf("\n got %q\nwant %q", got, c.want)
			}
			if !slices.Equal(notes, c.notes) {
				t.Errorf("notes %q, want %q", notes, c.notes)
			}
		})
	}
}

func TestRecogniseGaugeProblems(t *testing.T) {
	monthly := monthly(loops.Trigger{Kind: loops.OnAPI, Endpoint: "/api/*"})
	lifetime := []loops.Loop{{Feature: "calls", Window: loops.Window{Kind: loops.Lifetime}}}
	for name, c := range map[string]struct {
		catalog  string
		settings Settings
		policy   []loops.Loop
		want     []string
	}{
		"a period": {countersLine, counting("counters", "count", "hits"), monthly,
			[]string{"tables.usage.count: a gauge has no window, and these loops have a period: calls (skene.config.ts:3:5)", "leave period and window out"}},
		"the time of rows": {countersLine, counting("counters", "count", "hits", "at", "created_at"), lifetime,
			[]string{"tables.usage.at: it is of rows that are uses", "tables.usage.count is set", "leave it out"}},
		"all of rows": {countersLine, counting("counters", "count", "hits", "quantity", "hits", "status", "hits"), lifetime, []string{"tables.usage.quantity: it is of rows", "tables.usage.status: it is of rows"}},
		"no whole number": {"public.counters: id bigint, user_id text, hits numeric; key id", counting("counters", "count", "hits"), lifetime,
			[]string{"tables.usage.count: public.counters.hits is numeric, and not an integer type"}},
		"no such column": {countersLine, counting("counters", "count", "hit"), lifetime, []string{"tables.usage.count: public.counters has no column hit", "did you mean hits?"}},
		"no key": {"public.counters: id bigint, user_id text, hits bigint", counting("counters", "count", "hits"), lifetime,
			[]string{"watch public.counters: it has no primary key and no replica identity", `ALTER TABLE "public"."counters" ADD PRIMARY KEY ("id")`}},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := Recognise(catalog([]string{c.catalog}), "public", c.settings, c.policy)
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q is not in:\n%v", part, err)
				}
			}
		})
	}
}
