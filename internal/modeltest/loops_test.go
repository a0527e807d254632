package modeltest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

// rule is one loop. skene.config.ts is written from it, so that the sidecar and the reference are told
// the same.
type rule struct {
	feature, path string // path ends in "/*" for one more segment, in "/**" for anything below
	limits        map[string]int64
	period        string  // "30d", "month"; "": a lifetime, or what is billed
	window        string  // "rolling", "billing"; "": as the period says
	warnAt        float64 // 0: never
	shadow, mails bool
	strict        bool
	direct        bool // strict, now or at times: its events are the application's as well

	// Until the sidecar is seen to follow a configuration that changed:
	was      *rule // what it may still go by
	counting bool  // it may still count it: new, or under another trigger
	leaving  bool  // it is no rule any more
}

// pool is every rule that a history may have; the first two never leave.
func pool() []*rule {
	limits := func(free, paid int64) map[string]int64 { return map[string]int64{"free": free, "paid": paid} }
	withPro := func(free, pro int64) map[string]int64 {
		return map[string]int64{"free": free, "pro": pro, "paid": unlimited}
	}
	return []*rule{
		{feature: "features", path: "/api/features/*", limits: withPro(5, 12), period: "30d", warnAt: 0.8, mails: true},
		{feature: "exports", path: "/api/exports", limits: withPro(3, 6), mails: true},
		{feature: "reports", path: "/api/reports/*", limits: limits(4, 9), period: "month", warnAt: 0.5, mails: true},
		{feature: "beta", path: "/api/beta/*", limits: limits(2, unlimited), period: "30d", shadow: true, mails: true},
		{feature: "calls", path: "/api/**", limits: limits(700, 3000)},
		{feature: "sso", path: "/api/sso", limits: limits(0, unlimited), mails: true},
		{feature: "again", path: "/api/features/*", limits: withPro(4, 9), period: "30d", warnAt: 0.5, mails: true},
		{feature: "ever", path: "/api/**", limits: withPro(6, 14), mails: true},
	}
}

// begun is how many rules of the pool a history begins with.
const begun = 6

// message is what a loop says in the n-th configuration: it tells which one a row was made under.
func (r *rule) message(n int) string { return fmt.Sprintf("No %s left (%d)", r.feature, n) }

func (r *rule) lifetime() bool { return r.period == "" && r.window == "" }

// config returns skene.config.ts, the n-th one of a history.
func config(rules []*rule, n int) string {
	var b strings.Builder
	b.WriteString("import { defineLoop } from '@skene/sdk';\n\nexport default defineLoop({\n  type: 'freemium',\n  steps: [\n")
	for _, r := range rules {
		if !r.leaving {
			r.step(&b, n)
		}
	}
	b.WriteString("  ],\n});\n")
	return b.String()
}

func (r *rule) step(b *strings.Builder, n int) {
	var limits []string
	for _, tier := range slices.Sorted(maps.Keys(r.limits)) {
		limit := "Infinity"
		if r.limits[tier] != unlimited {
			limit = fmt.Sprint(r.limits[tier])
		}
		limits = append(limits, tier+": "+limit)
	}
	condition := "type: 'usage', limit: { " + strings.Join(limits, ", ") + " }"
	switch r.period {
	case "":
	case "month":
		condition += ", period: 'month', window: 'calendar', timezone: 'UTC'"
	default:
		condition += ", period: '" + r.period + "'"
	}
	if r.window != "" {
		condition += ", window: '" + r.window + "'"
	}
	if r.warnAt > 0 {
		condition += fmt.Sprintf(", warnAt: [%v]", r.warnAt)
	}
	action := "type: 'block', message: '" + r.message(n) + "'"
	if r.mails {
		action += ", upgradePrompt: { type: 'email', provider: 'resend', template: 'upgrade_prompt' }"
	}
	mode := ""
	switch {
	case r.shadow:
		mode = "enforcement: 'shadow', "
	case r.strict:
		mode = "enforcement: 'strict', "
	}
	fmt.Fprintf(b, "    { feature: '%s', %strigger: { type: 'api', endpoint: '%s', method: 'POST' },\n      condition: { %s },\n      action: { %s } },\n",
		r.feature, mode, r.path, condition, action)
}

// otherLimits returns a rule's limits, each of them a few more or less.
func (r *rule) otherLimits(rng *rand.Rand) map[string]int64 {
	next := maps.Clone(r.limits)
	for _, tier := range slices.Sorted(maps.Keys(next)) {
		if n := next[tier]; n > 0 && n < 100 {
			next[tier] = max(1, n+int64(rng.IntN(7))-3)
		}
	}
	if pro, ok := next["pro"]; ok {
		next["pro"] = max(pro, next["free"]+1) // a paying tier gives more
	}
	if paid := next["paid"]; paid != unlimited {
		next["paid"] = max(paid, next["free"]+1)
	}
	return next
}

// tables is the application's schema.
const tables = `
CREATE TABLE users (id text PRIMARY KEY, email text, name text);
CREATE TABLE subscriptions (id bigserial PRIMARY KEY, user_id text, status text, plan text, period_start timestamptz, period_end timestamptz);
CREATE TABLE usage (id bigserial PRIMARY KEY, user_id text, endpoint text, method text, quantity int NOT NULL DEFAULT 1,
	status int NOT NULL DEFAULT 200, created_at timestamptz NOT NULL);
CREATE INDEX ON usage (user_id, created_at);
`
