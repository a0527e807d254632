package modeltest

import (
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// compare holds the flags and the inbox against the reference.
func (h *history) compare() {
	h.t.Helper()
	have := h.flags()
	for id, s := range h.m.subjects {
		for _, r := range h.m.rules {
			key := id + " " + r.feature
			want := h.m.flag(s, r, h.configs)
			got, ok := have[key]
			delete(have, key)
			switch {
			case s.gone && ok:
				h.t.Errorf("%s was deleted and has a row: %s", key, got)
			case s.gone, !ok && !s.user && s.rows[r.feature].used == 0:
			case got != want:
				h.t.Errorf("%s\n  have %s\n  want %s", key, got, want)
			}
		}
	}
	for _, r := range h.m.rules {
		key := "* " + r.feature
		if want := h.m.flag(anybody(r), r, h.configs); have[key] != want {
			h.t.Errorf("%s\n  have %s\n  want %s", key, have[key], want)
		}
		delete(have, key)
	}
	for key, got := range have {
		h.t.Errorf("nobody expects a row of %s: %s", key, got)
	}
	h.compareMails()
	if h.t.Failed() {
		h.t.FailNow()
	}
}

// flags returns every row of feature_access as text.
func (h *history) flags() map[string]string {
	rows, err := h.conn.Query(h.t.Context(), `SELECT subject_id, feature, allowed, tier, used, coalesce(usage_limit, -1), coalesce(reason, ''), coalesce(message, ''), resets_at,
		tiergate.has_feature(subject_id, feature) FROM feature_access`)
	if err != nil {
		h.t.Fatal(err)
	}
	have := map[string]string{}
	var id, feature, tier, reason, message string
	var allowed, says bool
	var used, limit int64
	var resets *time.Time
	_, err = pgx.ForEachRow(rows, []any{&id, &feature, &allowed, &tier, &used, &limit, &reason, &message, &resets, &says}, func() error {
		end := time.Time{}
		if resets != nil {
			end = *resets
		}
		have[id+" "+feature] = row(allowed, tier, used, limit, reason, message, end)
		if says != allowed {
			h.t.Errorf("%s %s: allowed is %t, has_feature says %t", id, feature, allowed, says)
		}
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return have
}

func row(allowed bool, tier string, used, limit int64, reason, message string, end time.Time) string {
	text := fmt.Sprintf("allowed=%t tier=%s used=%d limit=%d reason=%q message=%q", allowed, tier, used, limit, reason, message)
	if !end.IsZero() {
		text += " until " + end.UTC().Format(time.DateTime)
	}
	return text
}

// anybody is the subject that a row of '*' stands for.
func anybody(r *rule) *subject {
	s := &subject{tier: "free", rows: map[string]*window{}}
	s.rows[r.feature] = s.fresh(r, time.Time{}, 0)
	return s
}

// flag is the row that the reference expects under the n-th configuration.
func (m *reference) flag(s *subject, r *rule, n int) string {
	w, reason, message := s.rows[r.feature], "", ""
	down := w.down() && !r.shadow
	if down {
		message = r.message(n)
	}
	planned := window{limit: r.limit(s.tier), used: w.used}
	switch {
	case !down && !r.shadow && planned.down():
		reason = "granted"
	case !down:
	case w.limit == 0:
		reason = "not_in_plan"
	case s.status == "past_due":
		reason = "past_due"
	default:
		reason = "limit_reached"
	}
	return row(!down, w.tier, w.used, w.limit, reason, message, w.end)
}

// compareMails holds the inbox against the promises: every certain mail once, a doubtful one at most
// once, no other at all, and nothing to an address that was never the subject's.
func (h *history) compareMails() {
	h.t.Helper()
	type mail struct{ subject, feature, kind string }
	got, keys := map[mail]int{}, map[string]bool{}
	for _, m := range h.resend.Inbox() {
		if keys[m.Key] || m.Key == "" {
			h.t.Errorf("the mail %q was delivered twice", m.Key)
		}
		keys[m.Key] = true
		// installation/freemium.features/warned_80/u1/0
		parts := strings.Split(m.Key, "/")
		feature := strings.TrimPrefix(parts[1], "freemium.")
		got[mail{parts[3], feature, parts[2]}]++
		if !h.emails[parts[3]][m.To[0]] {
			h.t.Errorf("%s was mailed at %v", parts[3], m.To)
		}
	}
	sure, most := map[mail]int{}, map[mail]int{}
	for key, p := range h.m.mails {
		k := mail{key.subject, key.feature, key.kind}
		most[k]++
		if p == certain {
			sure[k]++
		}
	}
	for k := range most {
		if got[k] < sure[k] {
			h.t.Errorf("%d mails to %s: %s %s, expected at least %d", got[k], k.subject, k.feature, k.kind, sure[k])
		}
	}
	for k, n := range got {
		if n > most[k] {
			h.t.Errorf("%d mails to %s: %s %s, expected at most %d", n, k.subject, k.feature, k.kind, most[k])
		}
	}
}
