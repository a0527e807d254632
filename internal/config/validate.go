package config

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/tiergate/tiergate/internal/loops"
	"github.com/tiergate/tiergate/internal/spell"
)

const nameHint = "1 to 64 of a–z, 0–9, '_', '-' and '.'"

// validation reads trees into loops and gathers what is wrong with them. It is the only judge of
// both languages: what it does not know by name is refused.
type validation struct {
	loops    []loops.Loop
	problems []LoopsProblem
	features map[string]nodePos // where each feature got its step
}

// validateKey is one key that an object may hold.
type validateKey struct {
	name string
	need string                     // what to write where it is missing; empty: optional
	read func(n *node, path string) // nil: known, but not in this version
}

func (v *validation) fail(at nodePos, hint, format string, args ...any) {
	v.problems = append(v.problems, newLoopsProblem(at, hint, format, args...))
}

func (v *validation) later(at nodePos, path, what, hint string) {
	v.fail(at, hint, "%s: %s is not supported in this version", path, what)
}

// wrong reports a value that is not what was expected; hint may be empty.
func (v *validation) wrong(n *node, path, expected, hint string) {
	if n.kind == nodeOther && n.text == "undefined" {
		hint = "leave the key out instead; of process.env a loop sees NODE_ENV, VERCEL_ENV, UPGRADE_URL, PUBLIC_URL, TIERGATE_* and NEXT_PUBLIC_*"
	}
	v.fail(n.at, hint, "%s: expected %s, found %s", path, expected, n)
}

// object reads every key of a mapping, and reports unknown, repeated and missing ones.
func (v *validation) object(n *node, path string, keys ...validateKey) {
	if n.kind != nodeMap {
		v.wrong(n, validatePath(path), "an object", "")
		return
	}
	seen := map[string]nodePos{}
	for _, e := range n.entries {
		at := validateJoin(path, e.key)
		i := slices.IndexFunc(keys, func(k validateKey) bool { return k.name == e.key })
		first, repeated := seen[e.key]
		seen[e.key] = e.at
		switch {
		case repeated:
			v.fail(e.at, "", "%s: written twice, first in line %d", at, first.line)
		case i < 0:
			v.fail(e.at, unknownHint(path, e.key, keys), "%s: unknown key", at)
		case keys[i].read == nil:
			v.fail(e.at, "", "%s is not supported in this version", at)
		default:
			keys[i].read(e.value, at)
		}
	}
	for _, k := range keys {
		if _, ok := seen[k.name]; !ok && k.need != "" {
			v.fail(n.at, "write "+k.need, "%s is missing", validateJoin(path, k.name))
		}
	}
}

// unknownHint says what an unknown key may have meant, where it belongs, or what there is.
func unknownHint(path, key string, keys []validateKey) string {
	var names []string
	for _, k := range keys {
		if k.read != nil {
			names = append(names, k.name)
		}
	}
	if name := spell.Closest(key, names); name != "" {
		return meant(name)
	}
	homes := map[string]string{
		"type": "the loop, its trigger, condition or action", "steps": "the loop", "recovery": "the loop", "opinion": "the loop",
		"feature": "the step, beside trigger", "enforcement": "the step, beside trigger",
		"trigger": "the step", "condition": "the step", "action": "the step",
		"endpoint": "trigger", "method": "trigger",
		"limit": "condition", "period": "condition", "window": "condition", "timezone": "condition", "warnAt": "condition",
		"message": "action", "upgradePrompt": "action",
		"provider": "upgradePrompt", "template": "upgradePrompt", "retries": "recovery or upgradePrompt",
	}
	if home, ok := homes[key]; ok {
		return key + " belongs in " + home
	}
	return validatePath(path) + " takes " + strings.Join(names, ", ")
}

func validateJoin(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func validatePath(path string) string {
	if path == "" {
		return "a loop"
	}
	return path
}

// variant reads the key type of an object, which says what its other keys may be. Nothing comes back
// where it is missing, wrong, or for a later version; that is reported, the other keys are not read.
func (v *validation) variant(n *node, path string, now, later []string) string {
	if n.kind != nodeMap {
		v.wrong(n, path, "an object", "")
		return ""
	}
	kind := n.get("type")
	if kind == nil {
		v.fail(n.at, "write type: "+validateChoices(now), "%s.type is missing", path)
		return ""
	}
	return v.choice(kind, path+".type", now, later)
}

// choice reads one of several words.
func (v *validation) choice(n *node, path string, now, later []string) string {
	switch {
	case n.kind != nodeText:
		v.wrong(n, path, validateChoices(now), "")
	case slices.Contains(now, n.text):
		return n.text
	case slices.Contains(later, n.text):
		v.later(n.at, path, nodeQuote(n.text), "this version takes "+validateChoices(now))
	default:
		v.fail(n.at, meant(spell.Closest(n.text, now)), "%s: expected %s, found %s", path, validateChoices(now), nodeQuote(n.text))
	}
	return ""
}

func validateChoices(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = nodeQuote(w)
	}
	if len(quoted) < 2 {
		return strings.Join(quoted, "")
	}
	return strings.Join(quoted[:len(quoted)-1], ", ") + " or " + quoted[len(quoted)-1]
}

// text reads a text of at most limit characters that says something.
func (v *validation) text(n *node, path string, limit int) string {
	switch {
	case n.kind != nodeText:
		v.wrong(n, path, "a text", "")
	case strings.TrimSpace(n.text) == "":
		v.fail(n.at, "leave it out, or say something", "%s is empty", path)
	case len([]rune(n.text)) > limit:
		v.fail(n.at, "", "%s is longer than %d characters", path, limit)
	default:
		return n.text
	}
	return ""
}

// name reads a word that ends up in keys, columns and file names.
func (v *validation) name(n *node, path string) string {
	if n.kind != nodeText {
		v.wrong(n, path, "a name", "")
		return ""
	}
	if !isLoopName(n.text) {
		v.fail(n.at, "a name is "+nameHint, "%s: %s is not a name", path, nodeQuote(n.text))
		return ""
	}
	return n.text
}

func isLoopName(text string) bool {
	return regexp.MustCompile(`^[a-z0-9_.-]{1,64}$`).MatchString(text)
}

// integer reads a whole number from 0 on; Infinity only where it is allowed.
func (v *validation) integer(n *node, path, expected string, infinity bool) (float64, bool) {
	number := n.number
	switch {
	case n.kind == nodeText && infinity && n.plain && slices.Contains([]string{"unlimited", "Infinity"}, n.text):
		return math.Inf(1), true
	case n.kind == nodeText && regexp.MustCompile(`^[0-9]+$`).MatchString(n.text):
		v.wrong(n, path, expected, "write "+n.text+" without quotes")
	case n.kind == nodeText && infinity && slices.Contains([]string{"unlimited", "infinity", "Infinity"}, n.text):
		v.wrong(n, path, expected, "write Infinity without quotes")
	case n.kind != nodeNumber:
		v.wrong(n, path, expected, "")
	case math.IsInf(number, 1) && infinity:
		return number, true
	case math.IsNaN(number) || number < 0 || number != math.Trunc(number) || math.IsInf(number, 0):
		v.wrong(n, path, expected, "")
	case number > 1<<53:
		v.fail(n.at, "Infinity means no limit", "%s: %s is too large to be counted exactly", path, n)
	default:
		return number, true
	}
	return 0, false
}

func (v *validation) retries(n *node, path string) int {
	number, ok := v.integer(n, path, "a whole number from 0 to 100", false)
	if ok && number > 100 {
		v.wrong(n, path, "a whole number from 0 to 100", "")
		return 0
	}
	return int(number)
}

// limits reads the limit of each tier.
func (v *validation) limits(n *node, path string) map[string]loops.Limit {
	const example = "{ free: 100, paid: Infinity }"
	limits := map[string]loops.Limit{}
	if n.kind != nodeMap {
		v.wrong(n, path, "a limit for each tier", "write "+example)
		return limits
	}
	for _, e := range n.entries {
		at := path + "." + e.key
		if _, ok := limits[e.key]; ok {
			v.fail(e.at, "", "%s: written twice", at)
			continue
		}
		if !isLoopName(e.key) {
			v.fail(e.at, "tiers are lower-case names; the setting tiers maps prices and plans to them", "%s: %s is not the name of a tier", path, nodeQuote(e.key))
			continue
		}
		limits[e.key] = 0
		if number, ok := v.integer(e.value, at, "a whole number or Infinity", true); ok {
			limits[e.key] = loops.Unlimited
			if !math.IsInf(number, 1) {
				limits[e.key] = loops.Limit(number)
			}
		}
	}
	if _, ok := limits[loops.DefaultTier]; !ok {
		hint := fmt.Sprintf("write %s; %s is the tier of everybody who does not pay", example, loops.DefaultTier)
		if name := spell.Closest(loops.DefaultTier, slices.Sorted(maps.Keys(limits))); name != "" && name != loops.PayingTier {
			hint = fmt.Sprintf("%s is the tier of everybody who does not pay: is %s meant to be it?", loops.DefaultTier, name)
		}
		v.fail(n.at, hint, "%s.%s is missing", path, loops.DefaultTier)
	}
	return limits
}

// warnings reads the fractions of the limit at which a warning leaves.
func (v *validation) warnings(n *node, path string) []float64 {
	if n.kind != nodeList {
		v.wrong(n, path, "a list of fractions", "write [0.8]")
		return nil
	}
	var fractions []float64
	for i, item := range n.items {
		at := fmt.Sprintf("%s[%d]", path, i)
		switch f := item.number; {
		case item.kind != nodeNumber || math.IsNaN(f) || f <= 0 || f >= 1:
			hint := ""
			if item.kind == nodeNumber && f > 1 && f < 100 {
				hint = fmt.Sprintf("%v percent is %v", f, f/100)
			}
			v.wrong(item, at, "a fraction between 0 and 1", hint)
		case slices.Contains(fractions, f):
			v.fail(item.at, "", "%s: %v is there twice", at, f)
		default:
			fractions = append(fractions, f)
		}
	}
	slices.Sort(fractions)
	return fractions
}
