package modeltest

import (
	"testing"

	"github.com/jackc/pgx/v5"
)

const strictConfig = `import { defineLoop } from '@skene/sdk';
export default defineLoop({
  type: 'freemium',
  steps: [
    { enforcement: 'strict', trigger: { type: 'api', endpoint: '/api/models/*' },
      condition: { type: 'usage', limit: { free: 3, paid: 10 }, period: '30d' }, action: { type: 'block', message: 'No more' } },
    { trigger: { type: 'api', endpoint: '/api/exports' },
      condition: { type: 'usage', limit: { free: 2, paid: 10 }, period: '30d' }, action: { type: 'block', message: 'No more' } },
  ],
});
`

// TestIdleConsumer is rule 9: a session that sits idle in its transaction after consuming holds nobody up but who
// consumes the same feature of the same subject.
func TestIdleConsumer(t *testing.T) {
	w := newWorld(t, "idle_consumer", shared.shipped)
	w.write("skene.config.ts", strictConfig)
	w.exec(tables)
	w.exec(`INSERT INTO users VALUES ('ann', 'ann@shop.test'), ('bob', 'bob@shop.test'), ('cyd', 'cyd@shop.test')`)
	w.command("install")
	w.awaitSidecar()

	idle, err := pgx.Connect(t.Context(), w.url)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close(t.Context())
	hold := func(sql string) {
		t.Helper()
		if _, err := idle.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	hold(`BEGIN`)
	hold(`SELECT * FROM tiergate.consume_feature('ann', 'models', 2)`)
	hold(`SELECT * FROM tiergate.consume_feature('cyd', 'models')`)
	hold(`SELECT * FROM tiergate.consume_feature('org-1', 'models')`) // makes its row

	row := func(subject, feature string) string {
		return scan[string](t, w.conn, `SELECT concat_ws(' ', tier, used, usage_limit, allowed) FROM feature_access WHERE subject_id = $1 AND feature = $2
			UNION ALL SELECT 'none' LIMIT 1`, subject, feature)
	}
	is := func(subject, feature, want string) {
		t.Helper()
		w.await(subject+"'s "+feature, func() (bool, string) { got := row(subject, feature); return got == want, got })
	}
	// The stream goes on, for the same subjects too, and so do others.
	w.exec(`INSERT INTO usage (user_id, endpoint, method, created_at) SELECT 'ann', '/api/exports', 'POST', now() FROM generate_series(1, 2)`)
	is("ann", "exports", "free 2 2 f")
	w.exec(`INSERT INTO subscriptions (user_id, status, plan) VALUES ('ann', 'active', 'paid'), ('org-1', 'active', 'paid')`)
	w.exec(`DELETE FROM users WHERE id = 'cyd'`)
	w.exec(`INSERT INTO users VALUES ('dan', 'dan@shop.test')`)
	is("ann", "exports", "paid 2 10 t")
	is("org-1", "exports", "paid 0 10 t")
	is("cyd", "exports", "none")
	is("dan", "exports", "free 0 2 t")
	w.exec(`SELECT * FROM tiergate.consume_feature('bob', 'models', 3)`)
	is("bob", "models", "free 3 3 f")
	is("ann", "models", "free 0 3 t") // as committed
	is("org-1", "models", "none")
	if n := scan[int](t, w.conn, `SELECT count(*) FROM tiergate.due WHERE subject_id IN ('ann', 'cyd', 'org-1')`); n != 3 {
		t.Errorf("%d of the subjects that are held are to be looked at again", n)
	}

	hold(`COMMIT`)
	is("ann", "models", "paid 2 10 t")
	is("org-1", "models", "paid 1 10 t")
	is("cyd", "models", "none")
	w.await("nothing to be left over", func() (bool, string) {
		left := scan[string](t, w.conn, `SELECT coalesce(string_agg(subject_id, ', '), '') FROM tiergate.due`)
		return left == "", left
	})
	w.awaitSidecar()
	w.command("verify")
}
