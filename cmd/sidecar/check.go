package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tiergate/tiergate/internal/config"
	"github.com/tiergate/tiergate/internal/loops"
	"github.com/tiergate/tiergate/internal/sql"
)

func checkCommand() *cobra.Command {
	c := &cobra.Command{Use: "check", Short: "Look at everything the sidecar needs, and say what mends what is missing", Args: cobra.NoArgs}
	asJSON := jsonFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		dir, err := c.Flags().GetString("dir")
		if err != nil {
			return err
		}
		k := &checkup{}
		k.all(c.Context(), dir)
		if *asJSON {
			err = printJSON(c, k.result())
		} else {
			k.print(c.OutOrStdout())
		}
		if err == nil && k.count(problem) > 0 {
			return errFound
		}
		return err
	}
	return c
}

// level is how grave a finding is.
type level string

const (
	fine    level = "ok"
	warning level = "warning" // it works, but not as one may think
	problem level = "problem" // it does not work
)

// finding is one line of a check: what was looked at, what was found, and what mends it.
type finding struct {
	Group string `json:"group"`
	Level level  `json:"level"`
	About string `json:"about"`
	Found string `json:"found"`
	Fix   string `json:"fix,omitempty"` // a statement or a setting
}

// checkup gathers findings. It changes nothing in the database.
type checkup struct {
	group    string
	findings []finding
}

// all looks at one thing after the other, and goes on as far as what it found allows.
func (k *checkup) all(ctx context.Context, dir string) {
	s := k.settings(dir)
	plan := k.loops(dir, s)
	k.emails(s, plan)
	if s.Database.URL == "" {
		return
	}
	k.group = "Database"
	conn, err := sql.Connect(ctx, s.Database.URL, sql.ForCommand)
	if err != nil {
		k.faults("connection", err)
		return
	}
	defer conn.End()
	server, err := sql.Inspect(ctx, conn)
	if err != nil {
		k.faults("server", err)
		return
	}
	k.ok("connection", "signed in as %s %s", server.User, overTLS(conn))
	k.server(server, s)
	slot, err := sql.Replication(ctx, conn)
	if err != nil {
		k.faults("replication", err)
	} else {
		k.replication(ctx, server, slot, s)
	}
	if plan == nil { // what is wrong with the loops is said already
		plan = &loops.Plan{Tiers: s.Tiers, Grace: s.Grace}
	}
	k.group = "Tables"
	p, err := match(ctx, conn, s, plan)
	k.faults("tables", err)
	if p != nil {
		k.tables(ctx, conn, server, p, err == nil)
	}
}

func overTLS(conn *sql.Session) string {
	if conn.Encrypted {
		return "over TLS"
	}
	return "without TLS"
}

func (k *checkup) add(l level, about, found, fix string) {
	k.findings = append(k.findings, finding{Group: k.group, Level: l, About: about, Found: found, Fix: fix})
}

func (k *checkup) ok(about, format string, args ...any) {
	k.add(fine, about, fmt.Sprintf(format, args...), "")
}

func (k *checkup) warn(about, fix, format string, args ...any) {
	k.add(warning, about, fmt.Sprintf(format, args...), fix)
}

func (k *checkup) fail(about, fix, format string, args ...any) {
	k.add(problem, about, fmt.Sprintf(format, args...), fix)
}

// faults takes an error apart: each fault in it is a problem with its own way out.
func (k *checkup) faults(about string, err error) {
	var list *config.LoopsError
	var f *loops.Fault
	joined, isJoined := err.(interface{ Unwrap() []error })
	switch {
	case err == nil:
	case isJoined:
		for _, e := range joined.Unwrap() {
			k.faults(about, e)
		}
	case errors.As(err, &list):
		for _, p := range list.Problems {
			k.fail(fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column), p.Hint, "%s", p.Problem+excerpt(p))
		}
	case errors.As(err, &f) && f.Err != nil:
		k.fail(f.Step, f.Hint, "%v", f.Err)
	default:
		k.fail(about, "", "%v", err)
	}
}

// demote reports as a warning what would stop something else than the flags.
func (k *checkup) demote(about string, err error) {
	from := len(k.findings)
	k.faults(about, err)
	for i := range k.findings[from:] {
		k.findings[from+i].Level = warning
	}
}

// excerpt is the offending line with its caret, as the problem prints itself.
func excerpt(p config.LoopsProblem) string {
	_, rest, _ := strings.Cut(p.String(), "\n")
	rest, _, _ = strings.Cut(rest, "  → ")
	return strings.TrimRight("\n"+rest, "\n ")
}

func (k *checkup) count(l level) (n int) {
	for _, f := range k.findings {
		if f.Level == l {
			n++
		}
	}
	return n
}

// checkResult is what --json prints.
type checkResult struct {
	OK       bool      `json:"ok"` // no problem; there may be warnings
	Problems int       `json:"problems"`
	Warnings int       `json:"warnings"`
	Findings []finding `json:"findings"`
}

func (k *checkup) result() checkResult {
	problems := k.count(problem)
	return checkResult{OK: problems == 0, Problems: problems, Warnings: k.count(warning), Findings: k.findings}
}

func (k *checkup) print(out io.Writer) {
	marks := map[level]string{fine: "✓", warning: "!", problem: "✗"}
	group := ""
	for _, f := range k.findings {
		if f.Group != group {
			group = f.Group
			fmt.Fprintf(out, "%s\n", group)
		}
		fmt.Fprintf(out, "  %s %s — %s\n", marks[f.Level], f.About, indent(f.Found, "      "))
		if f.Fix != "" {
			fmt.Fprintf(out, "    → %s\n", indent(f.Fix, "      "))
		}
	}
	r := k.result()
	switch {
	case !r.OK:
		fmt.Fprintf(out, "\n%s to mend, %s.\n", plural(r.Problems, "problem"), plural(r.Warnings, "warning"))
	case r.Warnings > 0:
		fmt.Fprintf(out, "\nReady, with %s: `sidecar run`.\n", plural(r.Warnings, "warning"))
	default:
		fmt.Fprintln(out, "\nReady: `sidecar run`.")
	}
}

// indent keeps the later lines of a text under its first.
func indent(text, by string) string { return strings.ReplaceAll(text, "\n", "\n"+by) }

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
