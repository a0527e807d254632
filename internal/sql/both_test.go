package sql

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
)

// onBoth runs a test on PostgreSQL, and on MariaDB or the MySQL that is chosen. What it says in PostgreSQL's words goes through words.
func onBoth(t *testing.T, test func(t *testing.T)) {
	t.Run("postgres", test)
	t.Run("mysql", test)
}

func isOnMySQL(t *testing.T) bool { return strings.Contains(t.Name(), "/mysql") }

// newMySQLApp returns an empty database.
func newMySQLApp(t *testing.T) *app {
	t.Helper()
	m, err := mysqlServer()
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("app%d", databases.Add(1))
	if err := m.CreateDatabase(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	a := &app{t: t, url: m.URL(name), schema: name}
	if a.own, err = Connect(t.Context(), a.url, ForCommand); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.own.End)
	return a
}

// makeTables makes the conventional tables.
func (a *app) makeTables() {
	a.t.Helper()
	if a.conn != nil {
		a.exec(`CREATE TABLE usage (id bigserial PRIMARY KEY, user_id text, endpoint text, method text, created_at timestamptz DEFAULT now())`)
		a.exec(`CREATE TABLE users (id text PRIMARY KEY, email text, name text)`)
		a.exec(`CREATE TABLE subscriptions (id text PRIMARY KEY, user_id text, status text, plan text, current_period_end timestamptz)`)
		return
	}
	a.exec(`CREATE TABLE usage (id BIGINT AUTO_INCREMENT PRIMARY KEY, user_id VARCHAR(100), endpoint VARCHAR(200), method VARCHAR(10), created_at TIMESTAMP(6) DEFAULT NOW(6))`)
	a.exec(`CREATE TABLE users (id VARCHAR(100) PRIMARY KEY, email VARCHAR(200), name VARCHAR(200))`)
	a.exec(`CREATE TABLE subscriptions (id VARCHAR(100) PRIMARY KEY, user_id VARCHAR(100), status VARCHAR(50), plan VARCHAR(50), current_period_end DATETIME(6))`)
	for i := range a.watches {
		for f, c := range a.watches[i].Columns {
			c.Type = map[loops.Field]string{loops.FieldAt: "timestamp(6)", loops.FieldPeriodEnd: "datetime(6)"}[f]
			a.watches[i].Columns[f] = c
		}
	}
}

var call = regexp.MustCompile(`SELECT tiergate\.(consume_feature|grant_feature|revoke_grant)\(`)
var series = regexp.MustCompile(`generate_series\(1, (\d+)\)( i)?`)
var span = regexp.MustCompile(`interval '(\d+) (\w+?)s?'`)
var usageTable = regexp.MustCompile(`\busage\b`)
var truth = regexp.MustCompile(`\b(t|true)\b`)
var falsehood = regexp.MustCompile(`\b(f|false)\b`)

// words turns what tests say into MySQL's.
func (a *app) words(query string) string {
	if a.conn != nil {
		return query
	}
	query = call.ReplaceAllString(query, "CALL tiergate_$1(")
	query = strings.NewReplacer("::text", "", "now()", "NOW(6)", "public.", "", "tiergate.now()", "tiergate.now()").Replace(query)
	query = strings.ReplaceAll(query, "tiergate.NOW(6)", "tiergate.now()")
	query = span.ReplaceAllString(query, "INTERVAL $1 $2")
	query = usageTable.ReplaceAllString(query, `"usage"`)
	n := 0
	return series.ReplaceAllStringFunc(query, func(s string) string {
		n++
		m := series.FindStringSubmatch(s)
		column := []string{fmt.Sprint("i", n), "i"}[min(1, len(m[2]))]
		return fmt.Sprintf("(WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %s) SELECT i AS %s FROM n) g%d", m[1], column, n)
	})
}

// said is what MySQL, whose booleans are numbers, says instead.
func (a *app) said(want []string) []string {
	if a.conn != nil {
		return want
	}
	out := make([]string, len(want))
	for i, w := range want {
		out[i] = falsehood.ReplaceAllString(truth.ReplaceAllString(w, "1"), "0")
	}
	return out
}

// callConsume is consumeAs on MySQL.
func (a *app) callConsume(subject string, quantity int64) string {
	a.t.Helper()
	var allowed bool
	var used int64
	var limit, remaining *int64
	var resets *time.Time
	var message *string
	err := a.own.QueryRow(a.t.Context(), `CALL tiergate_consume_feature($1, 'features', $2)`, subject, quantity).Scan(&allowed, &used, &limit, &remaining, &resets, &message)
	if err != nil {
		a.t.Fatalf("consume %d: %v", quantity, err)
	}
	said, of := "refused ", "∞"
	if allowed {
		said = "granted "
	}
	if limit != nil {
		of = fmt.Sprint(*limit)
	}
	said += fmt.Sprint(used) + "/" + of
	if message != nil {
		said += ": " + *message
	}
	return said
}

// kill ends a session, as an administrator would.
func (a *app) kill(s *Session) {
	a.t.Helper()
	if l, ok := s.life.(postgresLink); ok {
		a.exec(`SELECT pg_terminate_backend($1)`, l.PgConn().PID())
		return
	}
	var id int64
	if err := s.QueryRow(a.t.Context(), `SELECT CONNECTION_ID()`).Scan(&id); err != nil {
		a.t.Fatal(err)
	}
	a.exec(fmt.Sprint("KILL ", id))
}
