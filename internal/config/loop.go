package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // zones on hosts that have none

	"github.com/tiergate/tiergate/internal/loops"
)

const (
	maxOpinion      = 2_000
	maxMessage      = 1_000
	defaultProvider = "resend"
	defaultTemplate = "upgrade_prompt"
	// untilExpiry is the retries of a prompt that names none: see loops.Prompt.
	untilExpiry = -1
)

// file reads one exported loop.
func (v *validation) file(n *node) {
	var name, opinion string
	var steps []*node
	v.object(n, "",
		validateKey{"type", "type: 'freemium'", func(n *node, path string) { name = v.name(n, path) }},
		validateKey{"opinion", "", func(n *node, path string) { opinion = v.text(n, path, maxOpinion) }},
		validateKey{"steps", "steps: [{ trigger, condition, action }]", func(n *node, path string) {
			if n.kind != nodeList {
				v.wrong(n, path, "a list", "")
			} else if steps = n.items; len(steps) == 0 {
				v.fail(n.at, "write [{ trigger, condition, action }]", "%s is empty", path)
			}
		}},
		validateKey{"recovery", "", v.recovery},
	)
	for i, step := range steps {
		v.step(step, fmt.Sprintf("steps[%d]", i), name, opinion)
	}
}

// recovery is about the step's action. A block is one transaction, replayed until it is committed, and
// needs no retries: the key is read so that it may be there, and for the day an action is an email.
func (v *validation) recovery(n *node, path string) {
	v.object(n, path,
		validateKey{"retries", "", func(n *node, path string) { v.retries(n, path) }},
		validateKey{name: "backoff"},
	)
}

func (v *validation) step(n *node, path, name, opinion string) {
	l := loops.Loop{Opinion: opinion, Enforcement: loops.Async, Source: n.at.String()}
	var feature *node
	triggered := false
	v.object(n, path,
		validateKey{"trigger", "trigger: { type: 'api', endpoint: '/api/features/*' }", func(n *node, path string) {
			l.Trigger, l.Feature, triggered = v.trigger(n, path)
		}},
		validateKey{"condition", "condition: { type: 'usage', limit: { free: 100 }, period: '30d' }", func(n *node, path string) { v.condition(n, path, &l) }},
		validateKey{"action", "action: { type: 'block' }", func(n *node, path string) { v.action(n, path, &l) }},
		validateKey{"feature", "", func(n *node, _ string) { feature = n }},
		validateKey{"enforcement", "", func(n *node, path string) {
			l.Enforcement = loops.Enforcement(v.choice(n, path, []string{string(loops.Async), string(loops.Strict), string(loops.Shadow)}, nil))
		}},
	)
	if feature != nil || triggered {
		v.feature(n, path, feature, &l)
	}
	l.Name = name + "." + l.Feature
	v.loops = append(v.loops, l)
}

// feature settles which feature a step limits: its own word, else the trigger's. Two steps on one
// feature would fight over one row.
func (v *validation) feature(step *node, path string, own *node, l *loops.Loop) {
	at, byTrigger := step.at, l.Feature
	if own != nil {
		at = own.at
		if l.Feature = v.name(own, path+".feature"); l.Feature == "" {
			return
		}
		if l.Trigger.Kind == loops.OnFeature && byTrigger != "" && byTrigger != l.Feature {
			v.fail(at, "leave one of them out", "%s.feature: %s, but the trigger says %s", path, nodeQuote(l.Feature), nodeQuote(byTrigger))
			return
		}
	} else if l.Trigger.Kind == loops.OnAPI && !isLoopName(l.Feature) {
		why := "the endpoint has no literal segment to take it from"
		if l.Feature != "" {
			why = "the endpoint's last literal segment " + nodeQuote(l.Feature) + " is not a name"
		}
		v.fail(step.get("trigger").get("endpoint").at, "write feature: 'a_name' beside trigger: "+nameHint, "%s.feature is missing: %s", path, why)
		return
	}
	if l.Feature == "" {
		return
	}
	if first, ok := v.features[l.Feature]; ok {
		v.fail(at, "give one of them a feature of its own: feature: 'a_name' beside trigger", "%s: the feature %s already has a step, at %s", path, nodeQuote(l.Feature), first)
		return
	}
	if v.features == nil {
		v.features = map[string]nodePos{}
	}
	v.features[l.Feature] = at
}

// trigger returns the trigger and the feature it stands for; ok is false where the problem is reported.
func (v *validation) trigger(n *node, path string) (t loops.Trigger, feature string, ok bool) {
	kind := validateKey{"type", "", func(*node, string) {}}
	switch t.Kind = loops.TriggerKind(v.variant(n, path, []string{"api", "feature"}, []string{"schedule", "database"})); t.Kind {
	case loops.OnAPI:
		v.object(n, path, kind,
			validateKey{"endpoint", "endpoint: '/api/features/*'", func(n *node, path string) { t.Endpoint = v.endpoint(n, path) }},
			validateKey{"method", "", func(n *node, path string) {
				t.Method = v.choice(n, path, []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}, nil)
			}},
		)
		return t, lastLiteral(t.Endpoint), t.Endpoint != ""
	case loops.OnFeature:
		v.object(n, path, kind,
			validateKey{"feature", "feature: 'exports'", func(n *node, path string) { feature = v.name(n, path) }})
		return t, feature, feature != ""
	}
	return t, "", false
}

func (v *validation) endpoint(n *node, path string) string {
	switch {
	case n.kind != nodeText:
		v.wrong(n, path, "a path such as '/api/features/*'", "")
	case !strings.HasPrefix(n.text, "/"):
		hint := "write the path alone, from its slash on"
		if !strings.Contains(n.text, "://") {
			hint = "write '/" + n.text + "'"
		}
		v.fail(n.at, hint, "%s: %s does not begin with '/'", path, nodeQuote(n.text))
	case strings.ContainsAny(n.text, "?# \t\r\n"):
		v.fail(n.at, "a query string never matters; * is one segment, ** any number", "%s: %s is not a path", path, nodeQuote(n.text))
	default:
		return n.text
	}
	return ""
}

// lastLiteral returns the last segment of an endpoint that is not a pattern.
func lastLiteral(endpoint string) string {
	for _, segment := range slices.Backward(strings.Split(endpoint, "/")) {
		if segment != "" && !strings.Contains(segment, "*") {
			return segment
		}
	}
	return ""
}

func (v *validation) condition(n *node, path string, l *loops.Loop) {
	if v.variant(n, path, []string{"usage"}, []string{"query"}) == "" {
		return
	}
	var period, window, zone *node
	v.object(n, path,
		validateKey{"type", "", func(*node, string) {}},
		validateKey{"limit", "limit: { free: 100, paid: Infinity }", func(n *node, path string) { l.Limits = v.limits(n, path) }},
		validateKey{"period", "", func(n *node, _ string) { period = n }},
		validateKey{"window", "", func(n *node, _ string) { window = n }},
		validateKey{"timezone", "", func(n *node, _ string) { zone = n }},
		validateKey{"warnAt", "", func(n *node, path string) { l.WarnAt = v.warnings(n, path) }},
		validateKey{name: "query"}, validateKey{name: "timeout"},
	)
	l.Window = v.window(path, period, window, zone)
}

func (v *validation) window(path string, period, window, zone *node) loops.Window {
	w := loops.Window{Kind: loops.Anchored}
	if window != nil {
		w.Kind = loops.WindowKind(v.choice(window, path+".window", []string{"anchored", "calendar", "billing", "rolling"}, nil))
	}
	switch {
	case period != nil:
		w.Period = v.period(period, path+".period", w.Kind)
	case window == nil:
		w.Kind = loops.Lifetime
	case w.Kind == loops.Billing: // of those who have no subscription
		w.Period = loops.Period{Text: string(loops.UnitMonth), Unit: loops.UnitMonth}
	case w.Kind != "":
		v.fail(window.at, "write period: '30d'; without window and period the limit is for a lifetime", "%s.period is missing: a window has a length", path)
	}
	switch {
	case w.Kind == loops.Calendar:
		w.Zone = time.UTC
		if zone != nil {
			w.Zone = v.zone(zone, path+".timezone")
		}
	case zone != nil && w.Kind != "":
		v.fail(zone.at, "write window: 'calendar', or leave timezone out", "%s.timezone: only a calendar window has one", path)
	}
	return w
}

func (v *validation) period(n *node, path string, kind loops.WindowKind) loops.Period {
	if n.kind != nodeText {
		v.wrong(n, path, "a period", periodHint)
		return loops.Period{}
	}
	p, err := ParsePeriod(n.text)
	switch {
	case err != nil:
		v.fail(n.at, periodHint, "%s: %v", path, err)
	case kind == loops.Calendar && p.Unit == loops.UnitNone:
		v.fail(n.at, "write 'hour', 'day', 'week', 'month' or 'year', or leave window: 'calendar' out", "%s: a calendar has no window of %s", path, nodeQuote(n.text))
	case kind == loops.Rolling && p.Length == 0:
		v.fail(n.at, "write a fixed length, such as '30d'", "%s: %s has no fixed length, which a rolling window needs", path, nodeQuote(n.text))
	}
	return p
}

func (v *validation) zone(n *node, path string) *time.Location {
	if n.kind != nodeText {
		v.wrong(n, path, "a time zone such as 'Europe/Berlin'", "")
		return nil
	}
	zone, err := time.LoadLocation(n.text)
	if err != nil || n.text == "" || n.text == "Local" { // the last two would mean another zone on every host
		v.fail(n.at, "write an IANA name such as 'Europe/Berlin' or 'UTC'", "%s: %s is not a time zone", path, nodeQuote(n.text))
		return nil
	}
	return zone
}

func (v *validation) action(n *node, path string, l *loops.Loop) {
	if v.variant(n, path, []string{"block"}, []string{"notify", "email"}) == "" {
		return
	}
	v.object(n, path,
		validateKey{"type", "", func(*node, string) {}},
		validateKey{"message", "", func(n *node, path string) { l.Message = v.text(n, path, maxMessage) }},
		validateKey{"upgradePrompt", "", func(n *node, path string) { l.Prompt = v.prompt(n, path) }},
	)
}

func (v *validation) prompt(n *node, path string) *loops.Prompt {
	if n.kind == nodeList {
		v.later(n.at, path, "a sequence of prompts", "this version sends one prompt: write { type: 'email' }")
		return nil
	}
	if v.variant(n, path, []string{"email"}, nil) == "" {
		return nil
	}
	p := loops.Prompt{Provider: defaultProvider, Template: defaultTemplate, Retries: untilExpiry}
	v.object(n, path,
		validateKey{"type", "", func(*node, string) {}},
		validateKey{"provider", "", func(n *node, path string) { p.Provider = v.choice(n, path, []string{"resend", "smtp"}, nil) }},
		validateKey{"template", "", func(n *node, path string) { p.Template = v.name(n, path) }},
		validateKey{"retries", "", func(n *node, path string) { p.Retries = v.retries(n, path) }},
		validateKey{name: "after"}, validateKey{name: "personalization"},
	)
	return &p
}
