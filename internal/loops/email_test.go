package loops

import "testing"

func TestEmailDue(t *testing.T) {
	free := &Subject{ID: "ann", Tier: DefaultTier, Email: "ann@example.com"}
	paying := &Subject{ID: "ann", Tier: "pro", Email: "ann@example.com"}
	down, up := &Access{Allowed: false, Limit: 2, Episode: 3}, &Access{Allowed: true, Limit: 2, Episode: 3}
	for name, c := range map[string]struct {
		kind string
		sub  *Subject
		row  *Access
		want string
	}{
		"blocked":                   {"blocked", free, down, ""},
		"blocked in a paid plan":    {"blocked", paying, down, ""},
		"let in again":              {"blocked", free, up, SkipUnblocked},
		"upgraded":                  {"blocked", paying, up, SkipUpgraded},
		"the next episode":          {"blocked", free, &Access{Allowed: false, Limit: 2, Episode: 4}, SkipUnblocked},
		"no row":                    {"blocked", free, nil, SkipUnblocked},
		"nobody":                    {"blocked", nil, down, SkipGone},
		"deleted":                   {"blocked", &Subject{Deleted: true, Email: "a@b.c"}, down, SkipGone},
		"no address":                {"blocked", &Subject{Tier: DefaultTier}, down, SkipAddress},
		"warned":                    {"warned_80", free, up, ""},
		"warned in a paid plan":     {"warned_80", paying, up, ""},
		"warned and then blocked":   {"warned_80", free, down, SkipWarned},
		"warned and then upgraded":  {"warned_80", paying, &Access{Allowed: true, Limit: Unlimited, Episode: 3}, SkipUpgraded},
		"warned in the last window": {"warned_80", free, &Access{Allowed: true, Limit: 2, Episode: 4}, SkipUnblocked},
	} {
		e := Email{Kind: c.kind, Episode: 3}
		if got := e.Due(c.sub, c.row); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestEmailKey(t *testing.T) {
	base := Email{Loop: "freemium.features", Kind: "blocked", Subject: "ann", Episode: 1}
	if got := base.Key(); got != "freemium.features/blocked/ann/1" {
		t.Errorf("key %q", got)
	}
	seen := map[string]bool{base.Key(): true}
	for _, edit := range []func(*Email){
		func(e *Email) { e.Loop = "freemium.exports" }, func(e *Email) { e.Kind = "warned_80" },
		func(e *Email) { e.Subject = "bob" }, func(e *Email) { e.Episode = 2 }, func(e *Email) { e.Subject = "ann/1" },
	} {
		e := base
		edit(&e)
		if seen[e.Key()] {
			t.Errorf("%+v shares the key %q", e, e.Key())
		}
		seen[e.Key()] = true
	}
	same := base
	same.EventID, same.Template, same.ID = 9, "other", 9
	if same.Key() != base.Key() {
		t.Error("the key depends on more than subject, feature, loop, kind and episode")
	}
}
