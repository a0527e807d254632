package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/tiergate/tiergate/internal/sql"
)

// says runs a command that succeeds, and holds that it prints all of this.
func (a *app) says(args []string, want ...string) {
	a.t.Helper()
	out := a.must(args...)
	for _, w := range want {
		if !strings.Contains(out, w) {
			a.t.Errorf("sidecar %s does not say %q:\n%s", strings.Join(args, " "), w, out)
		}
	}
}

// TestGrant takes a grant from its first word to its end.
func TestGrant(t *testing.T) {
	a := newApp(t)
	a.set("TIERGATE_EMAIL_MODE", "off")
	const ann = "00000000-0000-0000-0000-000000000001"
	a.exec(`INSERT INTO users (id, email) VALUES ('` + ann + `', 'ann@shop.test');
		INSERT INTO usage (user_id, endpoint, method) SELECT '` + ann + `', '/api/features/1', 'POST' FROM generate_series(1, 2)`)
	a.must("run", "--once")

	a.says([]string{"grant", "list"}, "none\n")
	a.says([]string{"grant", ann, "features", "--quantity", "50", "--until", "2999-12-31", "--note", "outage of 3 May", "--by", "maria"},
		"Grant 1 of features for "+ann+": 50 more until 2999-12-31 00:00:00 UTC, by maria (outage of 3 May).\n", "Limit: 2 → 52.\n", "The flag follows when a sidecar runs: none does.\n")
	var change sql.GrantChange
	if err := json.Unmarshal([]byte(a.must("grant", "org-9", "features", "--quantity", "3", "--for", "30d", "--json")), &change); err != nil {
		t.Fatal(err)
	}
	if g := change.Grant; *change.Before != 2 || *change.After != 5 || change.Known || g.ID != 2 || g.GrantedBy == "" || g.ExpiresAt.Sub(g.GrantedAt).Hours() < 719.9 {
		t.Errorf("%+v", change)
	}
	a.says([]string{"grant", "org-8", "features", "--unlimited", "--by", "joe"}, "for org-8: unlimited, by joe.\n", "Limit: 2 → unlimited.\n", "is the id right?\n")

	a.says([]string{"explain", ann, "features"}, "limit         52: 2 of the plan + 50 granted", "grant         1: 50 more until 2999-12-31 00:00:00 UTC, by maria (outage of 3 May)\n", "granted at 2 of 2, tier free\n")
	a.says([]string{"explain", "org-8", "features"}, "limit         unlimited: 2 of the plan + granted without limit; the row has still to follow\n", "grant         3: unlimited, by joe\n")
	a.exec(`UPDATE tiergate.access_event SET over_run = 3, silent = false WHERE kind = 'blocked'`)
	if out := a.sidecar("status").out; !strings.Contains(out, "1 blocked, 3 beyond the limit at most (30 days)") {
		t.Error(out)
	}
	a.says([]string{"explain", ann, "features"}, "blocked at 2 of 2, over-run 3, tier free")
	a.exec(`UPDATE tiergate.access_grant SET expires_at = now() - interval '1 hour' WHERE id = 2`)
	a.says([]string{"grant", "list"}, "     3  open     org-8 features  unlimited, by joe\n     1  open     "+ann)
	a.says([]string{"grant", "list", "org-9", "--all"}, "     2  expired  org-9 features  3 more until ")

	a.says([]string{"grant", "revoke", "1"}, "Grant 1 of features for "+ann+" is revoked.\nLimit: 52 → 2.\n")
	for id, want := range map[string]string{"1": "grant 1 has ended already: revoked at ", "2": "grant 2 has ended already: expired at "} {
		if o := a.sidecar("grant", "revoke", id); o.code != 1 || !strings.Contains(o.err, want) {
			t.Error(o)
		}
	}
	var list []sql.Grant
	if err := json.Unmarshal([]byte(a.must("grant", "list", ann, "--json", "--all")), &list); err != nil || len(list) != 1 || list[0].EndedAt == nil {
		t.Error(list, err)
	}
	if out := a.must("explain", ann, "features"); strings.Contains(out, "\nlimit ") || !strings.Contains(out, "revoked at 2 of 2") {
		t.Error(out)
	}
}

func TestGrantWrongUse(t *testing.T) {
	a := newApp(t)
	if o := a.sidecar("grant", "ann", "features", "--unlimited"); o.code != 1 || !strings.Contains(o.err, "nothing is, in this database") {
		t.Error("not installed:", o)
	}
	a.must("install")
	if o := a.sidecar("grant", "ann", "features", "--unlimited"); o.code != 2 || !strings.Contains(o.err, "start the sidecar: it stores the loops") {
		t.Error("no plan:", o)
	}
	a.must("run", "--once")
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"grant"}, "accepts 2 arg(s), received 0"},
		{[]string{"grant", "ann"}, "accepts 2 arg(s), received 1"},
		{[]string{"grant", "ann", "features"}, "either --quantity N or --unlimited"},
		{[]string{"grant", "ann", "features", "--quantity", "1", "--unlimited"}, "either --quantity N or --unlimited"},
		{[]string{"grant", "ann", "features", "--quantity", "0"}, "--quantity 0: at least 1"},
		{[]string{"grant", "ann", "features", "--quantity", "-5"}, "sidecar grant revoke ID"},
		{[]string{"grant", "ann", "features", "--quantity", "many"}, "invalid argument"},
		{[]string{"grant", "ann", "features", "--quantity", "99999999999999999999"}, "out of range"},
		{[]string{"grant", "ann", "exports", "--unlimited"}, `no loop has feature "exports"; there is: features`},
		{[]string{"grant", "*", "features", "--unlimited"}, "'*' is no subject"},
		{[]string{"grant", "", "features", "--unlimited"}, "pass the id that usage rows carry"},
		{[]string{"grant", "ann", "features", "--unlimited", "--until", "2020-01-01"}, "expires_at is 2020-01-01 00:00:00+00, and it is"},
		{[]string{"grant", "ann", "features", "--unlimited", "--until", "tomorrow"}, `--until "tomorrow" is no time: write 2026-12-31`},
		{[]string{"grant", "ann", "features", "--unlimited", "--until", "2027-02-30"}, "is no time"},
		{[]string{"grant", "ann", "features", "--unlimited", "--for", "soon"}, "write 12h, 30d, 2w, month or year"},
		{[]string{"grant", "ann", "features", "--unlimited", "--for", "30d", "--until", "2999-01-01"}, "exclude each other"},
		{[]string{"grant", "list", "ann", "bob"}, "accepts at most 1 arg(s)"},
		{[]string{"grant", "revoke"}, "accepts 1 arg(s)"},
		{[]string{"grant", "revoke", "first"}, `"first" is no grant's id: see`},
		{[]string{"grant", "revoke", "0"}, `"0" is no grant's id: see`},
		{[]string{"grant", "revoke", "99"}, "no grant has id 99"},
	} {
		o := a.sidecar(test.args...)
		if o.code != 2 || !strings.Contains(o.err, test.want) || o.out != "" || strings.Count(o.err, "sidecar: ") != 1 {
			t.Errorf("sidecar %q: want exit 2 and %q: %s", test.args, test.want, o)
		}
	}
	if n := a.text(`SELECT count(*)::text FROM tiergate.access_grant`); n != "0" {
		t.Error("grants:", n)
	}
}
