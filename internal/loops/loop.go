package loops

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"
)

// DefaultTier is the tier of a subject that pays for nothing.
const DefaultTier = "free"

// PayingTier stands for any paying tier that has no limit of its own.
const PayingTier = "paid"

// AnySubject is the subject of the row that says what "no row" means.
const AnySubject = "*"

// MaxSubject is the longest subject that is followed, in bytes: databases index no longer ones.
const MaxSubject = 512

// Nobody reports whether an id names no subject: NULL, the row of "no row", or what is no id at all.
func Nobody(id string) bool { return id == "" || id == AnySubject || len(id) > MaxSubject }

// Limit is how many uses fit into one window. Zero means "not in the plan".
type Limit int64

// Unlimited is the limit of a tier that is never blocked; it is NULL in the database.
const Unlimited Limit = math.MaxInt64

// Enforcement says who decides and what a decision does.
type Enforcement string

// Async decides from the change stream. Strict lets nobody use but through consume_feature, which counts in the
// caller's transaction: usage rows say nothing. Shadow decides and records, but blocks and mails nobody.
const (
	Async  Enforcement = "async"
	Strict Enforcement = "strict"
	Shadow Enforcement = "shadow"
)

// Plan is everything an operator configured: the loops, and how plans become tiers.
type Plan struct {
	Loops []Loop
	Tiers map[string]string // price id, product or plan name → tier
	Grace time.Duration     // how long past_due keeps its tier
}

// Loop is the policy of one feature: what counts, how much of it fits, and what happens at the wall.
type Loop struct {
	Name        string // "freemium.features": the config's type and the feature
	Opinion     string // free text: why this loop exists
	Feature     string
	Trigger     Trigger
	Limits      map[string]Limit // by tier; always holds DefaultTier
	Window      Window
	WarnAt      []float64 // ascending fractions of the limit, each in (0, 1)
	Enforcement Enforcement
	Message     string  // shown to the blocked user
	Prompt      *Prompt // nil: nobody is mailed
	Source      string  // "skene.config.ts:5:12", for messages
}

// Trigger says which usage rows belong to a loop.
type Trigger struct {
	Kind     TriggerKind
	Endpoint string // API: a pattern; * is one segment, ** any number
	Method   string // API: upper case; empty is any
}

// TriggerKind is how a usage row is matched.
type TriggerKind string

// OnAPI matches endpoint and method, OnFeature the feature column.
const (
	OnAPI     TriggerKind = "api"
	OnFeature TriggerKind = "feature"
)

// Prompt is the email a wall sends.
type Prompt struct {
	Provider string // "resend" or "smtp"
	Template string
	Retries  int // attempts after the first; -1: with back-off inside the provider's idempotency window
}

// Limit returns the limit of a tier: its own, else that of "paid" for a paying tier.
func (l *Loop) Limit(tier string) Limit {
	if n, ok := l.Limits[tier]; ok {
		return n
	}
	if n, ok := l.Limits[PayingTier]; ok && tier != DefaultTier {
		return n
	}
	return l.Limits[DefaultTier]
}

// Pattern returns the trigger's endpoint as an anchored regular expression, written in the subset
// that Go and PostgreSQL read alike. It applies to a path without query string and trailing slash.
func (t Trigger) Pattern() string {
	var b strings.Builder
	b.WriteString("^")
	rest := strings.TrimRight(strings.ToValidUTF8(t.Endpoint, "\uFFFD"), "/")
	for rest != "" {
		switch {
		case strings.HasPrefix(rest, "/**"):
			b.WriteString("(/.*)?")
			rest = rest[3:]
		case strings.HasPrefix(rest, "**"):
			b.WriteString(".*")
			rest = rest[2:]
		case rest[0] == '*':
			b.WriteString("[^/]+")
			rest = rest[1:]
		default:
			end := strings.IndexByte(rest[1:], '*') + 1
			if slash := strings.Index(rest[1:], "/**") + 1; slash > 0 && slash < end {
				end = slash
			}
			if end == 0 {
				end = len(rest)
			}
			b.WriteString(regexp.QuoteMeta(rest[:end]))
			rest = rest[end:]
		}
	}
	return b.String() + "$"
}

// Prefix returns what every path that matches begins with, and whether that is the whole of it. Like Pattern it
// applies to a path without query string and trailing slash.
func (t Trigger) Prefix() (prefix string, whole bool) {
	prefix, _, wild := strings.Cut(strings.ToValidUTF8(t.Endpoint, "\uFFFD"), "*")
	return strings.TrimRight(prefix, "/"), !wild
}

// TierOf returns the tier that a subscription's plan and price stand for. A plan that nobody
// mapped is a tier of the loops by its own name, else it pays for something: "paid".
func (p *Plan) TierOf(price, plan string) string {
	for _, name := range []string{price, plan} {
		if tier, ok := p.Tiers[name]; ok && name != "" {
			return tier
		}
	}
	name := strings.ToLower(plan)
	for i := range p.Loops {
		if _, ok := p.Loops[i].Limits[name]; ok {
			return name
		}
	}
	return PayingTier
}

// better reports whether tier a gives more than tier b: the first loop whose limits differ decides,
// then the name, so that two sidecars always agree.
func (p *Plan) better(a, b string) bool {
	for i := range p.Loops {
		if la, lb := p.Loops[i].Limit(a), p.Loops[i].Limit(b); la != lb {
			return la > lb
		}
	}
	if (a == DefaultTier) != (b == DefaultTier) {
		return b == DefaultTier
	}
	return a < b
}

// Loop returns the loop of a feature, or nil.
func (p *Plan) Loop(feature string) *Loop {
	i := slices.IndexFunc(p.Loops, func(l Loop) bool { return l.Feature == feature })
	if i < 0 {
		return nil
	}
	return &p.Loops[i]
}

// TierNames returns every tier the plan knows, the default one first.
func (p *Plan) TierNames() []string {
	names := []string{DefaultTier}
	add := func(tier string) {
		if !slices.Contains(names, tier) {
			names = append(names, tier)
		}
	}
	for i := range p.Loops {
		for tier := range p.Loops[i].Limits {
			add(tier)
		}
	}
	for _, tier := range p.Tiers {
		add(tier)
	}
	add(PayingTier)
	slices.Sort(names[1:])
	return names
}

// String prints a limit as people write it.
func (n Limit) String() string {
	if n == Unlimited {
		return "unlimited"
	}
	return fmt.Sprint(int64(n))
}
