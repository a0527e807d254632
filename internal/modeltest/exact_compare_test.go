package modeltest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// heldNames names the rows and the grants that open transactions hold.
func (h *history) heldNames() []string {
	names := []string{}
	for id, s := range h.m.subjects {
		for feature := range s.held {
			names = append(names, id+" "+feature)
		}
	}
	for _, g := range h.grants {
		if g.locked {
			names = append(names, fmt.Sprint(g.id))
		}
	}
	return names
}

// said is called when the sidecar has caught up: of what could go two ways it allows the mails of both.
func (m *reference) said() {
	for _, s := range m.subjects {
		for feature := range s.unsaid {
			for key, p := range m.mails {
				if key.subject == s.id && key.feature == feature && p == pending {
					m.mails[key] = doubtful
				}
			}
			for _, r := range m.rules {
				if r.feature == feature {
					m.mails[mailKey{s.id, feature, r.warned(), -len(m.mails)}] = doubtful
					m.mails[mailKey{s.id, feature, "blocked", -len(m.mails)}] = doubtful
				}
			}
		}
	}
}

// compareExact holds rows, events, grants and mails against the reference.
func (h *history) compareExact() {
	h.t.Helper()
	have, episodes := h.flags(), h.episodes()
	for id, s := range h.m.subjects {
		for _, r := range h.m.rules {
			key, w := id+" "+r.feature, s.rows[r.feature]
			got, ok := have[key]
			delete(have, key)
			switch {
			case r.direct && len(s.held) > 0:
				continue // the sidecar may be waiting to look at all of them again
			case s.gone && ok:
				h.t.Errorf("%s was deleted and has a row: %s", key, got)
			case s.gone, !ok && !w.made, !ok && r.direct && len(h.open) > 0 && w.used == 0:
				continue
			case !ok && !s.user && w.used == 0 && w.closed.IsZero():
				w.made = false // what would have made it was over before the sidecar looked
				continue
			}
			if s.unsaid[r.feature] {
				w.episode = episodes[key]
			}
			if want := h.m.flag(s, r, h.configs); got != want || w.episode != episodes[key] {
				h.t.Errorf("%s\n  have %s, episode %d\n  want %s, episode %d", key, got, episodes[key], want, w.episode)
			}
		}
	}
	for key, got := range have {
		if !strings.HasPrefix(key, "* ") {
			h.t.Errorf("nobody expects a row of %s: %s", key, got)
		}
	}
	h.compareBuckets()
	h.compareGrants()
	h.compareEvents()
	h.compareMails()
	if h.t.Failed() {
		h.t.FailNow()
	}
	for _, s := range h.m.subjects {
		if len(s.held) == 0 && !s.gone { // the consumer whose user is deleted may commit much later
			s.unsynced, s.unsaid = false, map[string]bool{}
		}
	}
}

func (h *history) episodes() map[string]int {
	return pairs[string, int](h, `SELECT subject_id || ' ' || feature, episode FROM feature_access`)
}

// pairs runs a query of two columns, the first of them a key.
func pairs[K comparable, V any](h *history, sql string, args ...any) map[K]V {
	rows, err := h.conn.Query(h.t.Context(), sql, args...)
	if err != nil {
		h.t.Fatal(err)
	}
	found := map[K]V{}
	var key K
	var value V
	if _, err = pgx.ForEachRow(rows, []any{&key, &value}, func() error { found[key] = value; return nil }); err != nil {
		h.t.Fatal(err)
	}
	return found
}

// compareBuckets finds rolling windows that are not what their buckets add up to, and buckets of no window.
func (h *history) compareBuckets() {
	h.t.Helper()
	var rolling []string
	for _, r := range h.m.rules {
		if r.window == "rolling" {
			rolling = append(rolling, r.feature)
		}
	}
	wrong := pairs[string, string](h, `SELECT subject_id || ' ' || feature, format('used %s, buckets %s', fa.used, b.used)
		FROM (SELECT * FROM feature_access WHERE feature = ANY($1)) fa
		FULL JOIN (SELECT subject_id, feature, sum(used) AS used FROM tiergate.bucket WHERE rolls_off > tiergate.now() GROUP BY 1, 2) b USING (subject_id, feature)
		WHERE coalesce(fa.used, -1) <> coalesce(b.used, 0) AND subject_id || ' ' || feature <> ALL($2)`, rolling, h.heldNames())
	for row, why := range wrong {
		h.t.Errorf("%s: %s", row, why)
	}
}

func (h *history) compareGrants() {
	h.t.Helper()
	ended := pairs[int64, bool](h, `SELECT id, ended_at IS NOT NULL FROM tiergate.access_grant`)
	for _, g := range h.grants {
		is, ok := ended[g.id]
		if delete(ended, g.id); !ok || is != g.ended && !g.locked {
			h.t.Errorf("grant %d of %s: there %t, ended %t, expected %t", g.id, h.granted[g.id], ok, is, g.ended)
		}
	}
	for id := range ended {
		h.t.Errorf("nobody expects grant %d", id)
	}
}

// compareEvents holds what happened since the last comparison against the reference, in its order for each subject.
func (h *history) compareEvents() {
	h.t.Helper()
	rows, err := h.conn.Query(h.t.Context(), `SELECT id, kind, subject_id, feature, tier, episode FROM tiergate.access_event WHERE subject_id <> '' ORDER BY id`)
	if err != nil {
		h.t.Fatal(err)
	}
	have := map[string][]string{}
	var id int64
	var kind, who, feature, tier string
	var episode int
	_, err = pgx.ForEachRow(rows, []any{&id, &kind, &who, &feature, &tier, &episode}, func() error {
		if h.seen[id] {
			return nil
		}
		h.seen[id] = true
		of, text := who, fmt.Sprintf("%s %s #%d", kind, feature, episode)
		switch kind {
		case "tier_changed", "converted", "churned":
			text = kind + " " + tier
		case "granted", "revoked", "expired":
			of, text = who+" grants", kind+" "+feature
		default:
			if slices.ContainsFunc(h.m.rules, func(r *rule) bool { return r.direct && r.feature == feature }) {
				of += " " + feature
			}
		}
		have[of] = append(have[of], text)
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	for of := range h.m.events {
		have[of] = append(have[of], "")
	}
	for of := range have {
		got, want := h.certainEvents(of, have[of]), h.certainEvents(of, h.m.events[of])
		if got != want {
			h.t.Errorf("events of %s\n  have %s\n  want %s", of, got, want)
		}
	}
	clear(h.m.events)
}

// certainEvents joins events, without those of which nobody can tell. Those of grants have no order: time ends some of
// them whenever the sidecar looks.
func (h *history) certainEvents(of string, events []string) string {
	who, _, _ := strings.Cut(of, " ")
	var kept []string
	for _, e := range events {
		if fields := strings.Fields(e); len(fields) > 0 && (len(fields) != 3 || !h.m.subject(who).unsaid[fields[1]]) {
			kept = append(kept, e)
		}
	}
	if strings.HasSuffix(of, " grants") {
		slices.Sort(kept)
	}
	return strings.Join(kept, ", ")
}
