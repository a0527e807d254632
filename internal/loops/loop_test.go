package loops

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestPattern(t *testing.T) {
	for _, c := range []struct {
		endpoint string
		yes, no  []string
	}{
		{"/api/features/*", []string{"/api/features/1", "/api/features/ä b"}, []string{"/api/features", "/api/features/", "/api/features/1/2", "x/api/features/1", "/API/features/1"}},
		{"/api/features/*/", []string{"/api/features/1"}, []string{"/api/features"}},
		{"/api/**", []string{"/api", "/api/a", "/api/a/b"}, []string{"/apix", "/ap"}},
		{"/**/export", []string{"/export", "/a/export", "/a/b/export"}, []string{"/aexport", "/export/a"}},
		{"/api/**/export/*", []string{"/api/export/1", "/api/a/export/1"}, []string{"/api/aexport/1", "/api/export"}},
		{"**", []string{"", "/", "/a/b"}, nil},
		{"/**", []string{"", "/a", "/a/b"}, []string{"a"}},
		{"*", []string{"a"}, []string{"", "a/b"}},
		{"/v*/x", []string{"/v1/x", "/v22/x"}, []string{"/v/x", "/v1/2/x"}},
		{"/a.b/(c)+[d]{e}^$|\\", []string{"/a.b/(c)+[d]{e}^$|\\"}, []string{"/aXb/(c)+[d]{e}^$|\\", "/a.b/c"}},
		{"/***", []string{"/a", "/a/b"}, []string{""}},
		{"", []string{""}, []string{"/a"}},
		{"/", []string{""}, []string{"/a"}},
		{"/a\nb/*", []string{"/a\nb/c\nd"}, []string{"/a\nb/c/d", "/a\nb/c\n/"}},
	} {
		p := regexp.MustCompile("(?s)" + Trigger{Endpoint: c.endpoint}.Pattern())
		for _, path := range c.yes {
			if !p.MatchString(path) {
				t.Errorf("%q (%s) does not match %q", c.endpoint, p, path)
			}
		}
		for _, path := range c.no {
			if p.MatchString(path) {
				t.Errorf("%q (%s) matches %q", c.endpoint, p, path)
			}
		}
	}
}

func FuzzPattern(f *testing.F) {
	for _, s := range []string{"/api/features/*", "**", "/***/", "*/**/*", "/a\x00b", "/\\Q*\\E", "(?i)*", "/é*", "//**//", "/\x95*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, endpoint string) {
		pattern := Trigger{Endpoint: endpoint}.Pattern()
		p, err := regexp.Compile("(?s)" + pattern)
		if err != nil {
			t.Fatalf("%q became %q: %v", endpoint, pattern, err)
		}
		if plain := strings.TrimRight(endpoint, "/"); utf8.ValidString(plain) && !strings.Contains(plain, "*") && !p.MatchString(plain) {
			t.Fatalf("%q (%q) does not match itself", endpoint, pattern)
		}
	})
}

func TestLimits(t *testing.T) {
	l := features(map[string]Limit{DefaultTier: 1, "pro": 5, PayingTier: Unlimited})
	for tier, want := range map[string]Limit{DefaultTier: 1, "pro": 5, PayingTier: Unlimited, "team": Unlimited} {
		if got := l.Limit(tier); got != want {
			t.Errorf("limit of %s is %s, want %s", tier, got, want)
		}
	}
	l = features(map[string]Limit{DefaultTier: 1})
	if got := l.Limit("team"); got != 1 {
		t.Errorf("without an entry of its own or for paid, team has %s", got)
	}
	if Unlimited.String() != "unlimited" || Limit(7).String() != "7" {
		t.Error("limits are not printed as people write them")
	}
	plan := planOf(features(map[string]Limit{DefaultTier: 1, "pro": 5, "basic": 2, PayingTier: Unlimited}))
	plan.Tiers["price_1"] = "team"
	if got, want := plan.TierNames(), []string{DefaultTier, "basic", PayingTier, "pro", "team"}; !slices.Equal(got, want) {
		t.Errorf("tiers %q, want %q", got, want)
	}
	order := plan.TierNames()
	slices.SortFunc(order, func(a, b string) int {
		if plan.better(a, b) {
			return -1
		}
		return 1
	})
	if want := []string{PayingTier, "team", "pro", "basic", DefaultTier}; !slices.Equal(order, want) {
		t.Errorf("from best to least %q, want %q", order, want)
	}
}

func TestManyEndpoints(t *testing.T) {
	w := newWorld(t, planOf(features(freeOnly(Unlimited))), march.Add(time.Hour))
	s := w.load()
	for i := range 3 * maxRoutes {
		c := use("ann", march)
		c.Use.Endpoint = "/api/features/" + strings.Repeat("x", 1+i%7) + time.Duration(i).String()
		if err := w.d.Decide(s, Batch{Changes: []Change{c}}); err != nil {
			t.Fatal(err)
		}
	}
	if used := s.Subjects["ann"].Access[0].Used; used != 3*maxRoutes || len(w.d.matches) > maxRoutes {
		t.Errorf("used %d, %d endpoints remembered", used, len(w.d.matches))
	}
}
