package sql

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
)

// TestMySQLColumns counts rows of an unconventional table, whose subjects and keys are of every type that may name somebody, and looks
// whether they are told as the binlog tells them.
func TestMySQLColumns(t *testing.T) {
	for kind, said := range map[string]func(i int) (constant, text string){
		"bigint unsigned": func(i int) (string, string) {
			return fmt.Sprintf("18446744073709551%d", 600+i), fmt.Sprintf("18446744073709551%d", 600+i)
		},
		"binary(16)": func(i int) (string, string) {
			return fmt.Sprintf("X'00ff00000000000000000000000000%02x'", 16*i), fmt.Sprintf("00ff00000000000000000000000000%02x", 16*i)
		},
		"char(36)":                               func(i int) (string, string) { return fmt.Sprintf("'Ann %d '", i), fmt.Sprintf("Ann %d", i) },
		"varchar(40)":                            func(i int) (string, string) { return fmt.Sprintf("'a%d '", i), fmt.Sprintf("a%d ", i) },
		"varchar(40) character set latin1":       func(i int) (string, string) { return fmt.Sprintf("'Ann é %d'", i), fmt.Sprintf("Ann é %d", i) },
		"varchar(40) collate utf8mb4_general_ci": func(i int) (string, string) { return []string{"'a'", "'B'", "'é'"}[i], []string{"a", "B", "é"}[i] },
		"int":                                    func(i int) (string, string) { return fmt.Sprint(-i - 1), fmt.Sprint(-i - 1) },
		"datetime(3)": func(i int) (string, string) {
			return fmt.Sprintf("'2026-03-0%d 10:00:00.5'", i+1), fmt.Sprintf("2026-03-0%d 10:00:00.500", i+1)
		},
		"timestamp": func(i int) (string, string) {
			return fmt.Sprintf("'2026-03-0%d 10:00:00'", i+1), fmt.Sprintf("2026-03-0%d 10:00:00+00", i+1)
		},
		"enum('x','y','z')": func(i int) (string, string) { return fmt.Sprint(i + 1), []string{"x", "y", "z"}[i] },
	} {
		t.Run(strings.NewReplacer("/", " ").Replace(kind), func(t *testing.T) {
			a := newMySQLApp(t)
			zone, err := time.LoadLocation("America/New_York")
			if err != nil {
				t.Fatal(err)
			}
			a.exec("CREATE TABLE \"Usage \"\"Log\" (\"the user\" " + kind + " NULL, \"the path\" varchar(200), \"createdAt\" datetime, n smallint, \"order\" int)")
			a.exec("CREATE TABLE \"Us`ers\" (\"the user\" " + kind + " NOT NULL PRIMARY KEY, mail varchar(100))")
			a.watches = []loops.Watch{
				{Role: loops.Usage, Schema: a.schema, Table: `Usage "Log`, Zone: zone, Columns: map[loops.Field]loops.Column{
					loops.FieldSubject: {Name: "the user", Type: kind}, loops.FieldEndpoint: {Name: "the path"}, loops.FieldAt: {Name: "createdAt", Type: "datetime"},
					loops.FieldQuantity: {Name: "n"}, loops.FieldStatus: {Name: "order"}}},
				{Role: loops.Users, Schema: a.schema, Table: "Us`ers", Zone: time.UTC, Key: []string{"the user"}, Columns: map[loops.Field]loops.Column{
					loops.FieldSubject: {Name: "the user", Type: kind}, loops.FieldEmail: {Name: "mail"}}},
			}
			daily := features(5)
			daily.Feature, daily.Window = "daily", loops.Window{Kind: loops.Calendar, Period: loops.Period{Text: "day", Unit: loops.UnitDay}, Zone: zone}
			a.plan = planOf(features(5), daily)
			a.plan.Loops[0].Trigger.Method = ""
			a.plan.Loops[1].Trigger.Method = ""
			o := a.options()
			o.TestClock = true
			if _, err := Install(t.Context(), a.own, o); err != nil {
				t.Fatal(err)
			}
			a.clock("2026-03-10 15:00:30") // two days after New York's clocks went forward
			now := time.Date(2026, 3, 10, 15, 0, 30, 0, time.UTC).In(zone)
			var want []string
			for i := range 3 {
				constant, text := said(i)
				a.exec("INSERT INTO \"Us`ers\" VALUES (" + constant + ", 'x@y.test')")
				for _, row := range []string{
					fmt.Sprintf(`'/api/features/1?x=/', '%s', NULL, 200`, now.Add(-time.Second).Format(time.DateTime)),
					fmt.Sprintf(`'/api/features/2/', '%s', 3, NULL`, now.Add(-50*time.Hour).Format(time.DateTime)),
					fmt.Sprintf(`'/API/features/2', '%s', 3, 200`, now.Add(-time.Hour).Format(time.DateTime)),
					fmt.Sprintf(`'/api/features/2', '%s', 9, 402`, now.Add(-time.Hour).Format(time.DateTime)),
					fmt.Sprintf(`'/api/features/2', '%s', 9, 200`, now.Add(-40*24*time.Hour).Format(time.DateTime)),
				} {
					a.exec("INSERT INTO \"Usage \"\"Log\" VALUES (" + constant + ", " + row + ")")
				}
				want = append(want, text+"|daily|1", text+"|features|4")
			}
			a.exec("INSERT INTO \"Usage \"\"Log\" VALUES (NULL, '/api/features/1', NOW(6), 1, 200)")
			store := a.store()
			for range 2 {
				a.count(store)
				got := map[string]bool{}
				for _, line := range a.lines(`SELECT concat_ws('|', subject_id, feature, used) FROM feature_access WHERE subject_id <> '*'`) {
					got[line] = true
				}
				for _, line := range want {
					if !got[line] {
						t.Errorf("%q is not in %v", line, got)
					}
				}
				if len(got) != len(want) {
					t.Errorf("got %v, want %q", got, want)
				}
			}
			query, _ := store.source(&a.watches[1]).mirrorSQL()
			a.expect(`SELECT count(*) FROM (`+query+`) d`, "0")
		})
	}
}

// TestMySQLLongSubjects: whom the tables cannot name is nobody, in a count as in the stream.
func TestMySQLLongSubjects(t *testing.T) { t.Run("mysql", testMySQLLongSubjects) }

func testMySQLLongSubjects(t *testing.T) {
	a := newConventional(t)
	a.exec(`ALTER TABLE usage MODIFY user_id VARCHAR(300)`)
	fits, long := strings.Repeat("é", 191), strings.Repeat("é", 192)
	for _, id := range []string{fits, long} {
		a.exec(`INSERT INTO usage (user_id, endpoint, method) VALUES ('` + id + `', '/api/features/1', 'POST')`)
	}
	s := a.store()
	a.counted(s)
	for _, id := range []string{fits, long} {
		b := use("/api/features/1", time.Now())
		b.Changes[0].Use.Subject = id
		a.apply(s, b)
		b.Changes[0] = userIs(loops.Insert, id)
		a.apply(s, b)
	}
	a.expect(`SELECT concat_ws(' ', CHAR_LENGTH(subject_id), used) FROM feature_access WHERE subject_id <> '*'`, "191 2")
	if have, err := LookAtInstallation(t.Context(), a.own, a.options()); err != nil || have.Version == 0 || !have.Access || have.Missing != 0 {
		t.Errorf("%+v %v", have, err)
	}
}
