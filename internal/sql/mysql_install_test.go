package sql

import (
	"errors"
	"strings"
	"testing"

	"github.com/tiergate/tiergate/internal/loops"
)

// TestMySQLInstall: it is repeatable, mends what was dropped, and leaves alone what is not the sidecar's.
func TestMySQLInstall(t *testing.T) {
	a := emptyMySQL(t)
	if !a.install(MySQLInstall{}) || a.install(MySQLInstall{}) {
		t.Error("the first installation changes something, the second nothing")
	}
	a.expect(`SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() AND (engine <> 'InnoDB' OR table_name = 'tiergate_clock')`)
	installation := a.lines("SELECT value FROM tiergate_meta WHERE `key` = 'installation'")
	a.exec("DELETE FROM tiergate_meta WHERE `key` = 'version'") // as if it had been interrupted
	a.exec(`DROP PROCEDURE tiergate_consume`)
	a.exec(`DROP TABLE feature_access`)
	if !a.install(MySQLInstall{}) {
		t.Error("nothing was mended")
	}
	a.expect(`SELECT COUNT(*) FROM feature_access`, "0")
	if len(installation) != 1 {
		t.Errorf("installation %q", installation)
	}
	a.expect(`SELECT sql_mode FROM information_schema.routines WHERE routine_schema = DATABASE() AND sql_mode NOT LIKE '%STRICT_ALL_TABLES%'`)
	a.exec(`REPLACE INTO tiergate_meta VALUES ('plan', 'x')`)
	l := features(2)
	a.store(&l)
	a.exec(`DELETE FROM feature_access`) // as a migration tool may
	if !a.install(MySQLInstall{}) {
		t.Error("a table that lost its rows was not noticed")
	}
	a.expect("SELECT `key` FROM tiergate_meta WHERE `key` IN ('plan', 'first_episode')", "first_episode")
	a.exec("REPLACE INTO tiergate_meta VALUES ('version', '99')")
	_, err := InstallMySQL(t.Context(), a.conn, MySQLInstall{})
	kindIs(t, err, loops.Permanent)
	b := emptyMySQL(t)
	b.exec(`CREATE TABLE feature_access (id INT)`)
	_, err = InstallMySQL(t.Context(), b.conn, MySQLInstall{})
	kindIs(t, err, loops.Permanent)
}

// TestMySQLPrivileges: an account that was let in reads the flags, asks and consumes, and can do nothing else.
func TestMySQLPrivileges(t *testing.T) {
	a := newMySQLStrict(t, nil)
	account := "uses_" + a.name
	user := a.as(account)
	a.exec(`GRANT CREATE TEMPORARY TABLES ON ` + a.name + `.* TO '` + account + `'@'%'`) // or it could not enter the database
	a.install(MySQLInstall{TestClock: true, AppRoles: []string{"'" + account + "'@'%'"}})
	if _, err := user.ExecContext(t.Context(), `USE `+a.name); err != nil {
		t.Fatal(err)
	}
	for _, allowed := range []string{
		`CALL tiergate_consume_feature('ann', 'features', 1)`, `SELECT tiergate_has_feature('ann', 'features')`, `CALL tiergate_has('ann', 'features', @is)`,
		`CALL tiergate_feature_status('ann')`, `CALL tiergate_require_feature('ann', 'features')`, `CALL tiergate_explain_access('ann', 'features')`,
		`CALL tiergate_freshness()`, `SELECT tiergate_now()`, `SELECT * FROM feature_access`,
	} {
		if _, err := user.ExecContext(t.Context(), allowed); err != nil {
			t.Errorf("%s: %v", allowed, err)
		}
	}
	for _, refused := range []string{
		`CALL tiergate_grant_feature('ann', 'features', 1, NULL, '')`, `CALL tiergate_revoke_grant(1)`, `CALL tiergate_begin_work(@own)`,
		`CALL tiergate_consume('ann', 'features', 1, @a, @b, @c, @d, @e, @f)`, `CALL tiergate_rolling_add('ann', 'features', 1, NOW(), 1, 1)`,
		`CALL tiergate_record_event('blocked', 'ann', 'features', '', '', 0, 0, 0, NOW(), NOW(), NULL, 0, 0)`,
		`CALL tiergate_grant_event('granted', 'ann', 'features', NOW())`, `SELECT * FROM tiergate_subject`, `UPDATE feature_access SET allowed = 1`,
		`DELETE FROM feature_access`, `INSERT INTO tiergate_access_grant (subject_id) VALUES ('ann')`, `UPDATE tiergate_plan SET usage_limit = NULL`,
	} {
		a.fails(user, refused, "42000", "denied")
	}
	a.expect(`SELECT used FROM feature_access WHERE subject_id = 'ann'`, "1")
}

// TestMySQLInstallWithoutSuper: where the binary log is on and nobody trusts who makes functions, the fault says what to set, and all
// but the functions is there.
func TestMySQLInstallWithoutSuper(t *testing.T) {
	a := emptyMySQL(t)
	account := "owns_" + a.name
	owner := a.as(account)
	a.exec(`GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX, DROP ON ` + a.name + `.* TO '` + account + `'@'%'`)
	if _, err := owner.ExecContext(t.Context(), `USE `+a.name); err != nil {
		t.Fatal(err)
	}
	if _, err := InstallMySQL(t.Context(), owner, MySQLInstall{}); err != nil {
		t.Fatal(err)
	}
	install := func(step, hint string) {
		t.Helper()
		_, err := InstallMySQLRoutines(t.Context(), owner, MySQLInstall{})
		var fault *loops.Fault
		if !errors.As(err, &fault) || fault.Kind != loops.Permanent || !strings.Contains(fault.Step, step) || !strings.Contains(fault.Hint, hint) {
			t.Errorf("%v, want a step %q and a hint %q", err, step, hint)
		}
	}
	install("PROCEDURE", "CREATE ROUTINE")
	a.exec(`GRANT CREATE ROUTINE, ALTER ROUTINE, EXECUTE ON ` + a.name + `.* TO '` + account + `'@'%'`)
	if _, err := owner.ExecContext(t.Context(), `USE `+a.name); err != nil { // a session knows the rights it had when it entered
		t.Fatal(err)
	}
	install("CREATE", "log_bin_trust_function_creators")
	a.expect(`SELECT routine_name FROM information_schema.routines WHERE routine_schema = DATABASE() AND routine_type = 'FUNCTION'`)
	a.exec("INSERT INTO tiergate_plan (feature, tier, `loop`, usage_limit, window_kind, enforcement, message) VALUES ('features', 'free', 'l', 3, 'lifetime', 'strict', 'no')")
	for _, call := range []string{`CALL tiergate_consume_feature('ann', 'features', 3)`, `CALL tiergate_grant_feature('ann', 'features', 1, NULL, '')`, `CALL tiergate_feature_status('ann')`,
		`CALL tiergate_explain_access('ann', 'features')`, `CALL tiergate_revoke_grant(1)`, `CALL tiergate_has('ann', 'features', @is)`} {
		if _, err := owner.ExecContext(t.Context(), call); err != nil {
			t.Errorf("%s: %v", call, err)
		}
	}
	a.fails(owner, `CALL tiergate_require_feature('ann', 'features')`, "PT402", "no")
}
