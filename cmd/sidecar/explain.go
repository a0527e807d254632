package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tiergate/tiergate/internal/loops"
	"github.com/tiergate/tiergate/internal/sql"
)

func explainCommand() *cobra.Command {
	c := &cobra.Command{Use: "explain SUBJECT FEATURE", Short: "Tell why a subject may or may not use a feature", Args: cobra.ExactArgs(2)}
	asJSON := jsonFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return inInstalled(c, func(ctx context.Context, conn *sql.Session, p *prepared) error {
			if _, err := p.loopOf(args[1]); err != nil {
				return err
			}
			facts, err := sql.Explain(ctx, conn, args[0], args[1])
			if err != nil {
				return err
			}
			if *asJSON {
				return printJSON(c, facts)
			}
			var e explanation
			if err := json.Unmarshal(facts, &e); err != nil {
				return fmt.Errorf("read what explain_access says: %w", err)
			}
			e.print(c.OutOrStdout())
			return nil
		})
	}
	return c
}

// loopOf returns the loop of a feature that somebody named.
func (p *prepared) loopOf(feature string) (*loops.Loop, error) {
	if l := p.plan.Loop(feature); l != nil {
		return l, nil
	}
	var known []string
	for _, l := range p.plan.Loops {
		known = append(known, l.Feature)
	}
	return nil, usageError{fmt.Errorf("no loop has feature %q; there is: %s", feature, strings.Join(known, ", "))}
}

// explanation is what tiergate.explain_access returns, as far as it is printed for people.
type explanation struct {
	Subject, Feature string
	Allowed          bool
	Access           *struct {
		SubjectID   string     `json:"subject_id"`
		Used        int64      `json:"used"`
		Limit       *int64     `json:"usage_limit"`
		PeriodStart *time.Time `json:"period_start"`
		ResetsAt    *time.Time `json:"resets_at"`
		Reason      string     `json:"reason"`
		Message     string     `json:"message"`
	}
	Plan []struct {
		Tier        string
		Loop        string
		Limit       *int64 `json:"usage_limit"`
		Window      string `json:"window_kind"`
		Period      string
		Enforcement string
	}
	Limit *struct {
		Plan, Granted, Effective *int64
	}
	Grants []sql.Grant
	Tier   *struct {
		Tier, Status string
		Until        *time.Time
		Deleted      bool
	}
	Subscriptions []struct {
		Key, Status, Plan, Price string
		PeriodEnd                *time.Time `json:"period_end"`
	}
	Gauges []struct {
		Endpoint, Method, Feature string
		Value                     int64
	}
	Events []struct {
		At          time.Time
		Kind        string
		Used        int64
		Limit       *int64 `json:"usage_limit"`
		Tier        string
		Silent      bool
		OverRun     int64 `json:"over_run"`
		Email       string
		EmailReason string `json:"email_reason"`
	}
	Freshness struct{ Lag string }
}

// print tells the chain of facts from the flag back to what it is made of.
func (e *explanation) print(out io.Writer) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(out, "%-13s %s\n", name, fmt.Sprintf(format, args...))
	}
	verdict := "may use"
	if !e.Allowed {
		verdict = "may NOT use"
	}
	fmt.Fprintf(out, "%s %s %s\n", e.Subject, verdict, e.Feature)
	e.printAccess(line)
	e.printGrants(line)
	for _, p := range e.Plan {
		per := ""
		if p.Period != "" {
			per = " per " + p.Period
		}
		line("plan", "%s: %s%s (%s, %s)", p.Tier, limitText(p.Limit), per, p.Window, p.Enforcement)
	}
	if t := e.Tier; t != nil {
		text := t.Tier
		if t.Status != "" {
			text += ", from a subscription that is " + t.Status
		}
		if t.Until != nil {
			text += ", until " + stamp(*t.Until)
		}
		if t.Deleted {
			text = "deleted"
		}
		line("tier", "%s", text)
	}
	for _, m := range e.Subscriptions {
		line("subscription", "%s: %s %s", m.Key, m.Status, strings.TrimSpace(m.Plan+" "+m.Price))
	}
	for _, g := range e.Gauges {
		line("gauge", "%s", strings.Join(strings.Fields(fmt.Sprint(g.Method, " ", g.Endpoint, " ", g.Feature, " ", g.Value)), " "))
	}
	for _, ev := range e.Events {
		text := fmt.Sprintf("%s  %s at %d of %s", stamp(ev.At), ev.Kind, ev.Used, limitText(ev.Limit))
		if ev.OverRun > 0 {
			text += fmt.Sprintf(", over-run %d", ev.OverRun)
		}
		text += ", tier " + ev.Tier
		if ev.Silent {
			text += ", silent"
		}
		if ev.Email != "" {
			text += ", email " + strings.TrimSpace(ev.Email+" "+ev.EmailReason)
		}
		line("event", "%s", text)
	}
	line("freshness", "%s behind", e.Freshness.Lag)
}

func (e *explanation) printAccess(line func(name, format string, args ...any)) {
	a := e.Access
	switch {
	case a == nil:
		line("row", "none")
		return
	case a.SubjectID != e.Subject:
		line("row", "none of its own: counts as the default tier with nothing used")
	}
	text := fmt.Sprintf("%d of %s", a.Used, limitText(a.Limit))
	if a.PeriodStart != nil && a.ResetsAt != nil {
		text += fmt.Sprintf(", from %s until %s", stamp(*a.PeriodStart), stamp(*a.ResetsAt))
	}
	line("used", "%s", text)
	if a.Reason != "" {
		line("reason", "%s: %s", a.Reason, a.Message)
	}
}

// printGrants says how the limit comes about, where the plan is not all of it.
func (e *explanation) printGrants(line func(name, format string, args ...any)) {
	if len(e.Grants) == 0 || e.Limit == nil {
		return
	}
	granted := "granted without limit"
	if n := e.Limit.Granted; n != nil {
		granted = fmt.Sprintf("%d granted", *n)
	}
	text := fmt.Sprintf("%s: %s of the plan + %s", limitText(e.Limit.Effective), limitText(e.Limit.Plan), granted)
	if e.Access == nil || limitText(e.Access.Limit) != limitText(e.Limit.Effective) {
		text += "; the row has still to follow"
	}
	line("limit", "%s", text)
	for i := range e.Grants {
		line("grant", "%d: %s", e.Grants[i].ID, grantText(&e.Grants[i]))
	}
}

func limitText(n *int64) string {
	if n == nil {
		return "unlimited"
	}
	return fmt.Sprint(*n)
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }
