package sql

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tiergate/tiergate/internal/loops"
)

// newGranted is a database in which ann has used 2 of 2, and bob, of a tier of his own, nothing that was seen.
func newGranted(t *testing.T) *app {
	t.Helper()
	a := newConventional(t)
	a.plan.Loops[0].Limits["team"] = 10
	a.exec(`INSERT INTO users (id, email) VALUES ('ann', 'ann@shop.test')`)
	a.exec(`INSERT INTO usage (user_id, endpoint, method) SELECT 'ann', '/api/features/1', 'POST' FROM generate_series(1, 2)`)
	a.count(a.store())
	a.exec(`INSERT INTO tiergate.subject (subject_id, tier, updated_at) VALUES ('bob', 'team', now())`)
	return a
}

// explainLimit is what explain_access says of a limit.
func (a *app) explainLimit(subject string) string {
	a.t.Helper()
	facts, err := Explain(a.t.Context(), a.own, subject, "features")
	if err != nil {
		a.t.Fatal(err)
	}
	var e struct{ Limit json.RawMessage }
	if err := json.Unmarshal(facts, &e); err != nil {
		a.t.Fatal(err)
	}
	return strings.ReplaceAll(string(e.Limit), " ", "")
}

func TestGrantFeature(t *testing.T) {
	a := newGranted(t)
	a.exec(`DELETE FROM tiergate.access_event`)
	a.exec(`SELECT tiergate.grant_feature('ann', 'features', 50, now() + interval '1 day', 'an outage')`)
	a.exec(`SELECT set_config('tiergate.granted_by', 'maria', false)`)
	a.exec(`SELECT tiergate.grant_feature('bob', 'features')`)
	a.exec(`SELECT tiergate.grant_feature(7::bigint, 'features', 1)`)
	a.exec(`SELECT tiergate.grant_feature('00000000-0000-0000-0000-000000000001'::uuid, 'features', 1, 'infinity', NULL)`)
	a.exec(`SELECT set_config('tiergate.granted_by', '', false)`)
	a.exec(`SELECT tiergate.grant_feature('ann', 'features', quantity => 9223372036854775807, expires_at => '20000-01-01')`)
	a.expect(`SELECT concat_ws(' ', id, subject_id, coalesce(quantity::text, '∞'), expires_at > now() + interval '23 hours', note, granted_by, ended_at) FROM tiergate.access_grant ORDER BY id`,
		"1 ann 50 t an outage postgres", "2 bob ∞  maria", "3 7 1  maria", "4 00000000-0000-0000-0000-000000000001 1  maria", "5 ann 9223372036854775807  postgres")
	a.expect(`SELECT concat_ws(' ', kind, subject_id, loop, tier, used, usage_limit, episode, threshold, over_run, silent, position = '', recorded_at = at) FROM tiergate.access_event ORDER BY id`,
		"granted ann freemium.features free 2 2 0 0 f t t", "granted bob freemium.features team 0 10 0 0 f t t", "granted 7 freemium.features free 0 2 0 0 f t t",
		"granted 00000000-0000-0000-0000-000000000001 freemium.features free 0 2 0 0 f t t", "granted ann freemium.features free 2 2 0 0 f t t")
	for subject, want := range map[string]string{
		"ann": `{"plan":2,"granted":9223372036854775857,"effective":9223372036854775807}`,
		"bob": `{"plan":10,"granted":null,"effective":null}`,
		"7":   `{"plan":2,"granted":1,"effective":3}`,
		"eve": `{"plan":2,"granted":0,"effective":2}`,
	} {
		if got := a.explainLimit(subject); got != want {
			t.Errorf("limit of %s: %s, want %s", subject, got, want)
		}
	}
}

// TestGrantRollsBack holds that a grant and its event are the caller's.
func TestGrantRollsBack(t *testing.T) {
	a := newGranted(t)
	a.exec(`DELETE FROM tiergate.access_event`)
	a.exec(`BEGIN; SELECT tiergate.grant_feature('ann', 'features', 1); ROLLBACK`)
	a.expect(`SELECT kind FROM tiergate.access_event UNION ALL SELECT subject_id FROM tiergate.access_grant`)
}

func TestGrantRefuses(t *testing.T) {
	a := newGranted(t)
	check := func(call, message, hint string) {
		t.Helper()
		_, err := a.conn.Exec(t.Context(), `SELECT tiergate.`+call)
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != "22023" || !strings.Contains(pg.Message, message) || !strings.Contains(pg.Hint, hint) {
			t.Errorf("%s: %v, want %q with hint %q", call, err, message, hint)
		}
	}
	check(`grant_feature('ann', 'exports')`, "no loop has feature 'exports'", "there is: features")
	check(`grant_feature('ann', NULL)`, "no loop has feature NULL", "there is: features")
	check(`grant_feature('', 'features')`, "'' is no subject", "1 to 512 bytes")
	check(`grant_feature('*', 'features')`, "'*' is no subject", "1 to 512 bytes")
	check(`grant_feature(NULL::text, 'features')`, "NULL is no subject", "1 to 512 bytes")
	check(`grant_feature(repeat('ä', 257), 'features')`, "is no subject", "1 to 512 bytes")
	check(`grant_feature('ann', 'features', 0)`, "quantity is 0", "NULL is unlimited")
	check(`grant_feature('ann', 'features', -3)`, "quantity is -3", "revoke_grant(id)")
	check(`grant_feature('ann', 'features', 1, '2020-01-01')`, "expires_at is 2020-01-01", "a time to come")
	check(`grant_feature('ann', 'features', 1, '-infinity')`, "expires_at is -infinity", "a time to come")
	check(`revoke_grant(99)`, "no grant has id 99", "sidecar grant list")
	check(`revoke_grant(NULL)`, "no grant has id NULL", "sidecar grant list")
	a.exec(`DELETE FROM tiergate.plan`)
	check(`grant_feature('ann', 'features')`, "no loop has feature", "start the sidecar")
	a.expect(`SELECT subject_id FROM tiergate.access_grant`)
}

func TestRevokeGrant(t *testing.T) {
	a := newGranted(t)
	a.exec(`DELETE FROM tiergate.access_event`)
	a.exec(`SELECT tiergate.grant_feature('ann', 'features', 5), tiergate.grant_feature('ann', 'features', 6, now() + interval '1 hour'), tiergate.grant_feature('ann', 'features', 7)`)
	a.expect(`SELECT tiergate.revoke_grant(1)::text UNION ALL SELECT tiergate.revoke_grant(1)::text`, "true", "false")
	a.exec(`UPDATE tiergate.access_grant SET expires_at = now() - interval '1 hour' WHERE id = 2`) // nobody has said so yet
	a.expect(`SELECT tiergate.revoke_grant(2)::text`, "false")
	a.exec(`DELETE FROM tiergate.plan; DELETE FROM feature_access`) // the feature has left the plan
	a.expect(`SELECT tiergate.revoke_grant(3)::text`, "true")
	a.expect(`SELECT concat_ws(' ', kind, subject_id, feature, loop, used, coalesce(usage_limit::text, '∞')) FROM tiergate.access_event ORDER BY id`,
		"granted ann features freemium.features 2 2", "granted ann features freemium.features 2 2", "granted ann features freemium.features 2 2",
		"revoked ann features freemium.features 2 2", "revoked ann features  0 ∞")
	a.expect(`SELECT id::text FROM tiergate.access_grant WHERE ended_at IS NULL`, "2")
}

// TestGrantEventIsNobodys holds that a role which may call everything cannot write events of its own.
func TestGrantEventIsNobodys(t *testing.T) {
	a := newGranted(t)
	a.exec(`CREATE ROLE support LOGIN; GRANT USAGE ON SCHEMA tiergate TO support; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA tiergate TO support`)
	defer a.exec(`RESET SESSION AUTHORIZATION; DROP OWNED BY support; DROP ROLE support`)
	a.exec(`SET SESSION AUTHORIZATION support`)
	_, err := a.conn.Exec(t.Context(), `SELECT tiergate.grant_event('granted', 'ann', 'features')`)
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != "42501" {
		t.Error("grant_event:", err)
	}
	a.exec(`SELECT tiergate.grant_feature('ann', 'features', 1)`)
	a.exec(`RESET SESSION AUTHORIZATION`)
	a.expect(`SELECT granted_by FROM tiergate.access_grant`, "support")
}

func TestGiveAndRevoke(t *testing.T) { onBoth(t, testGiveAndRevoke) }

func testGiveAndRevoke(t *testing.T) {
	a := newGranted(t)
	conn, err := Connect(t.Context(), a.url, ForCommand)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	five := int64(5)
	c, err := Give(t.Context(), conn, NewGrant{Subject: "ann", Feature: "features", Quantity: &five, For: loops.Period{Text: "month", Unit: loops.UnitMonth}, Note: "why", By: "maria"})
	if err != nil || *c.Before != 2 || *c.After != 7 || !c.Known || c.Running || c.Grant.GrantedBy != "maria" || c.Grant.EndedAt != nil {
		t.Errorf("%+v %v", c, err)
	}
	if months := c.Grant.ExpiresAt.Sub(c.Grant.GrantedAt).Hours() / 24; months < 28 || months > 31.1 {
		t.Error("a month of", months, "days")
	}
	until := time.Now().Add(time.Hour).Truncate(time.Microsecond)
	c, err = Give(t.Context(), conn, NewGrant{Subject: "org-9", Feature: "features", Until: &until})
	if err != nil || *c.Before != 2 || c.After != nil || c.Known || !c.Grant.ExpiresAt.Equal(until) || !strings.Contains("postgres root@localhost", c.Grant.GrantedBy) {
		t.Errorf("%+v %v", c, err)
	}
	var input *InputError
	if _, err = Give(t.Context(), conn, NewGrant{Subject: "*", Feature: "features"}); !errors.As(err, &input) || input.Hint == "" {
		t.Error(err)
	}
	if _, err = Revoke(t.Context(), conn, 99); !errors.As(err, &input) {
		t.Error(err)
	}
	for _, ended := range []bool{true, false} {
		if c, err = Revoke(t.Context(), conn, 1); err != nil || c.Ended != ended || *c.After != 2 || c.Grant.EndedAt == nil {
			t.Errorf("%+v %v", c, err)
		}
	}
	for _, list := range []struct {
		subject string
		ended   bool
		want    int
	}{{"", false, 1}, {"", true, 2}, {"ann", false, 0}, {"ann", true, 1}} {
		if grants, err := ListGrants(t.Context(), conn, list.subject, list.ended); err != nil || len(grants) != list.want {
			t.Errorf("%+v: %+v %v", list, grants, err)
		}
	}
	if _, err := conn.Exec(t.Context(), "SELECT 1"); err != nil {
		t.Error("the session is spoiled:", err)
	}
}
