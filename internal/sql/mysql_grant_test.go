package sql

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// newMySQLGranted is a database in which ann has used 2 of 2, and bob, of a tier of his own, nothing that was seen.
func newMySQLGranted(t *testing.T) *myApp {
	t.Helper()
	a := newMySQL(t)
	l := features(2)
	l.Limits["team"] = 10
	a.store(&l)
	a.exec(`INSERT INTO feature_access (subject_id, feature, allowed, tier, used, usage_limit, remaining, reason, message, updated_at)
		VALUES ('ann', 'features', FALSE, 'free', 2, 2, 0, 'limit_reached', 'Upgrade to go on', tiergate_now())`)
	a.exec(`INSERT INTO tiergate_subject (subject_id, tier, updated_at) VALUES ('bob', 'team', tiergate_now())`)
	return a
}

// explain returns what tiergate_explain_access says.
func (a *myApp) explain(subject string) (facts map[string]json.RawMessage) {
	a.t.Helper()
	text := a.lines(`CALL tiergate_explain_access(?, 'features')`, subject)[0]
	if err := json.Unmarshal([]byte(text), &facts); err != nil {
		a.t.Fatalf("%s: %v", text, err)
	}
	return facts
}

func TestMySQLGrantFeature(t *testing.T) {
	a := newMySQLGranted(t)
	const most = 1<<63 - 1
	a.expect(`CALL tiergate_grant_feature('ann', 'features', 50, UTC_TIMESTAMP(6) + INTERVAL 1 DAY, 'an outage')`, "1")
	a.exec(`SET @tiergate_granted_by = 'maria'`)
	a.expect(`CALL tiergate_grant_feature('bob', 'features', NULL, NULL, NULL)`, "2")
	a.expect(`CALL tiergate_grant_feature('7', 'features', 1, '9999-12-31', NULL)`, "3")
	a.exec(`SET @tiergate_granted_by = ''`)
	a.expect(fmt.Sprintf(`CALL tiergate_grant_feature('ann', 'features', %d, NULL, '')`, int64(most)), "4")
	a.expect(`SELECT CONCAT_WS(' ', id, subject_id, COALESCE(quantity, '∞'), expires_at > UTC_TIMESTAMP() + INTERVAL 23 HOUR, note, SUBSTRING_INDEX(granted_by, '@', 1), ended_at) FROM tiergate_access_grant ORDER BY id`,
		"1 ann 50 1 an outage root", "2 bob ∞  maria", "3 7 1  maria", fmt.Sprintf("4 ann %d  root", int64(most)))
	a.expect(`SELECT CONCAT_WS(' ', kind, subject_id, `+"`loop`"+`, tier, used, usage_limit, episode, threshold, over_run, silent, position = '', recorded_at = at) FROM tiergate_access_event ORDER BY id`,
		"granted ann freemium.features free 2 2 0 0 0 1 1", "granted bob freemium.features team 0 10 0 0 0 1 1", "granted 7 freemium.features free 0 2 0 0 0 1 1",
		"granted ann freemium.features free 2 2 0 0 0 1 1")
	for subject, want := range map[string]string{
		"ann": `{"plan":2,"granted":9223372036854775857,"effective":9223372036854775807}`,
		"bob": `{"plan":10,"granted":null,"effective":null}`,
		"7":   `{"plan":2,"granted":1,"effective":3}`,
		"eve": `{"plan":2,"granted":0,"effective":2}`,
	} {
		var limit struct {
			Plan      json.RawMessage `json:"plan"`
			Granted   json.RawMessage `json:"granted"`
			Effective json.RawMessage `json:"effective"`
		}
		facts := a.explain(subject)
		if err := json.Unmarshal(facts["limit"], &limit); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf(`{"plan":%s,"granted":%s,"effective":%s}`, limit.Plan, limit.Granted, limit.Effective); got != want {
			t.Errorf("limit of %s: %s, want %s", subject, got, want)
		}
	}
}

// TestMySQLExplainAccess: all parts are JSON of the kind that PostgreSQL has them in.
func TestMySQLExplainAccess(t *testing.T) {
	a := newMySQLGranted(t)
	a.exec(`UPDATE tiergate_plan SET warn_at = '[0.8]'`)
	a.exec(`CALL tiergate_grant_feature('ann', 'features', 5, '2999-01-01', 'a \"quoted\" note')`)
	a.exec(`CALL tiergate_grant_feature('ann', 'features', 6, NULL, '')`)
	a.exec("INSERT INTO tiergate_subscription (`key`, subject_id, status, plan, price, customer, period_end) VALUES ('s1', 'ann', 'active', 'p', '', 'c', '2026-03-31 12:00:00.5')")
	a.exec("INSERT INTO tiergate_gauge VALUES ('g1', 'ann', '/x', '', 'features', 7), ('g2', 'ann', '/x', '', 'features', 9)")
	a.exec(`INSERT INTO tiergate_subject (subject_id, tier, updated_at) VALUES ('ann', 'free', tiergate_now())`)
	facts := a.explain("ann")
	for part, want := range map[string]string{
		"subject": `"ann"`, "allowed": `false`, "tier": `{"tier":"free","status":"","until":null,"deleted":false}`,
		"gauges": `[{"key":"g2","endpoint":"/x","method":"","feature":"features","value":9},{"key":"g1","endpoint":"/x","method":"","feature":"features","value":7}]`,
	} {
		if same, got := normal(t, want), normal(t, string(facts[part])); got != same {
			t.Errorf("%s is %s, want %s", part, got, same)
		}
	}
	for part, want := range map[string]string{
		"access": `"message":"Upgrade to go on"`, "grants": `"note":"a \"quoted\" note"`, "plan": `"warn_at":[0.8]`, "subscriptions": `"period_end":"2026-03-31T12:00:00.500000Z"`,
		"events": `"silent":false`, "freshness": `"position":""`,
	} {
		if got := normal(t, string(facts[part])); !strings.Contains(got, want) {
			t.Errorf("%s is %s, want %s in it", part, got, want)
		}
	}
	for part, want := range map[string]string{"access": `"subject_id":"*"`, "grants": "null", "tier": "null", "events": "null", "limit": `"plan":2`, "allowed": "true"} {
		if got := normal(t, string(a.explain("eve")[part])); !strings.Contains(got, want) {
			t.Errorf("%s of somebody unknown is %s, want %s in it", part, got, want)
		}
	}
	a.exec(`UPDATE tiergate_checkpoint SET position = 'p', source_time = UTC_TIMESTAMP(6) - INTERVAL 1 HOUR`)
	var position string
	var source []byte
	var lag float64
	if err := a.conn.QueryRowContext(t.Context(), `CALL tiergate_freshness()`).Scan(&position, &source, &lag); err != nil || position != "p" || lag < 3600 || lag > 7200 {
		t.Error(position, lag, err)
	}
}

// normal writes JSON in one way, keys sorted.
func normal(t *testing.T, text string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Errorf("%q: %v", text, err)
	}
	out, err := json.Marshal(v)
	if err != nil {
		t.Error(err)
	}
	return string(out)
}

// TestMySQLGrantRollsBack holds that a grant and its event are the caller's.
func TestMySQLGrantRollsBack(t *testing.T) {
	a := newMySQLGranted(t)
	a.exec(`BEGIN`)
	a.exec(`CALL tiergate_grant_feature('ann', 'features', 1, NULL, '')`)
	a.exec(`ROLLBACK`)
	a.expect(`SELECT kind FROM tiergate_access_event UNION ALL SELECT subject_id FROM tiergate_access_grant`)
}

func TestMySQLGrantRefuses(t *testing.T) {
	a := newMySQLGranted(t)
	for call, words := range map[string]string{
		`grant_feature('ann', 'exports', 1, NULL, '')`:                     "no loop has feature 'exports'; there is: features",
		`grant_feature('ann', NULL, 1, NULL, '')`:                          "no loop has feature NULL",
		`grant_feature('', 'features', 1, NULL, '')`:                       "'' is no subject: pass the id",
		`grant_feature('*', 'features', 1, NULL, '')`:                      "'*' is no subject",
		`grant_feature(NULL, 'features', 1, NULL, '')`:                     "NULL is no subject",
		`grant_feature(REPEAT('ä', 192), 'features', 1, NULL, '')`:         "is no subject",
		`grant_feature('ann', 'features', 0, NULL, '')`:                    "quantity is 0",
		`grant_feature('ann', 'features', -9223372036854775808, NULL, '')`: "and a grant gives at least 1",
		`grant_feature('ann', 'features', 1, '2020-01-01', '')`:            "expires_at is 2020-01-01",
		`revoke_grant(99)`:   "no grant has id 99: `sidecar grant list`",
		`revoke_grant(NULL)`: "no grant has id NULL",
	} {
		a.fails(a.conn, `CALL tiergate_`+call, "22023", words)
	}
	a.exec(`DELETE FROM tiergate_plan`)
	a.fails(a.conn, `CALL tiergate_grant_feature('ann', 'features', 1, NULL, '')`, "22023", "start the sidecar")
	a.expect(`SELECT subject_id FROM tiergate_access_grant`)
}

func TestMySQLRevokeGrant(t *testing.T) {
	a := newMySQLGranted(t)
	for quantity := range 3 {
		a.exec(`CALL tiergate_grant_feature('ann', 'features', ?, NULL, '')`, quantity+5)
	}
	a.expect(`CALL tiergate_revoke_grant(1)`, "1")
	a.expect(`CALL tiergate_revoke_grant(1)`, "0")
	a.exec(`UPDATE tiergate_access_grant SET expires_at = UTC_TIMESTAMP() - INTERVAL 1 HOUR WHERE id = 2`) // nobody has said so yet
	a.expect(`CALL tiergate_revoke_grant(2)`, "0")
	a.exec(`DELETE FROM tiergate_plan`) // the feature has left the plan
	a.exec(`DELETE FROM feature_access`)
	a.expect(`CALL tiergate_revoke_grant(3)`, "1")
	a.expect(`SELECT CONCAT_WS(' ', kind, subject_id, feature, `+"`loop`"+`, used, COALESCE(usage_limit, '∞')) FROM tiergate_access_event ORDER BY id`,
		"granted ann features freemium.features 2 2", "granted ann features freemium.features 2 2", "granted ann features freemium.features 2 2",
		"revoked ann features freemium.features 2 2", "revoked ann features  0 ∞")
	a.expect(`SELECT id FROM tiergate_access_grant WHERE ended_at IS NULL`, "2")
}

// TestMySQLReading: has_feature, require_feature and feature_status of rows, of no row, and of what is unknown.
func TestMySQLReading(t *testing.T) {
	a := newMySQLGranted(t)
	for call, want := range map[string]string{`'ann', 'features'`: "0", `'bob', 'features'`: "1", `'bob', 'nothing'`: "0", `NULL, 'features'`: "1", `'ann', NULL`: "0",
		`REPEAT('x', 9000), 'features'`: "1"} {
		a.expect(`SELECT tiergate_has_feature(`+call+`)`, want)
	}
	a.exec(`CALL tiergate_require_feature('bob', 'features')`)
	a.fails(a.conn, `CALL tiergate_require_feature('ann', 'features')`, "PT402", "Upgrade to go on")
	a.fails(a.conn, `CALL tiergate_require_feature('ann', 'nothing')`, "PT402", "nothing is not available")
	a.exec(`UPDATE feature_access SET message = REPEAT('é', 300) WHERE subject_id = 'ann'`)
	a.fails(a.conn, `CALL tiergate_require_feature('ann', 'features')`, "PT402", strings.Repeat("é", 128))
	a.want(a.status("ann"), "0 2 0 limit_reached")
	a.want(a.status("eve"), "1 0 2")
	a.exec(`INSERT INTO feature_access (subject_id, feature, allowed, tier, used, usage_limit, updated_at) VALUES ('*', 'a', TRUE, 'free', -7, 9223372036854775807, tiergate_now())`)
	a.want(a.status("eve")[:1], "1")
	a.expect(`SELECT TIMESTAMPDIFF(SECOND, '1970-01-01', tiergate_now()) BETWEEN UNIX_TIMESTAMP() - 60 AND UNIX_TIMESTAMP() + 60`, "1")
}
