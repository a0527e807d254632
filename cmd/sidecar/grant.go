package main

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/tiergate/tiergate/internal/config"
	"github.com/tiergate/tiergate/internal/loops"
	"github.com/tiergate/tiergate/internal/sql"
)

// grantFlags are what `sidecar grant` was told.
type grantFlags struct {
	quantity                   int64
	unlimited                  bool
	until, lasts, note, author string
}

func grantCommand() *cobra.Command {
	var f grantFlags
	c := &cobra.Command{
		Use: "grant SUBJECT FEATURE", Short: "Give a subject more of a feature than its tier does", Args: cobra.ExactArgs(2),
		Example: "  sidecar grant ann exports --quantity 50 --for 30d --note 'outage of 3 May'\n  sidecar grant ann exports --unlimited --until 2026-12-31",
	}
	c.Flags().Int64Var(&f.quantity, "quantity", 0, "uses beyond the limit, in every window while the grant is open")
	c.Flags().BoolVar(&f.unlimited, "unlimited", false, "no limit while the grant is open")
	c.Flags().StringVar(&f.until, "until", "", "when it ends: 2026-12-31 (the day's first moment, UTC), '2026-12-31 18:00' or 2026-12-31T18:00:00+01:00")
	c.Flags().StringVar(&f.lasts, "for", "", "how long it lasts: 12h, 30d, 2w, month, year")
	c.Flags().StringVar(&f.note, "note", "", "why")
	c.Flags().StringVar(&f.author, "by", "", "who gives it (default: the user of this machine)")
	asJSON := jsonFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		grant, err := f.grant(args[0], args[1], c.Flags().Changed("quantity"))
		if err != nil {
			return err
		}
		return inInstalled(c, func(ctx context.Context, conn *sql.Session, p *prepared) error {
			l, err := p.loopOf(grant.Feature)
			if err != nil {
				return err
			}
			done, err := sql.Give(ctx, conn, grant)
			if err != nil {
				return asUsage(err)
			}
			if *asJSON {
				return printJSON(c, done)
			}
			fmt.Fprintf(c.OutOrStdout(), "Grant %d of %s for %s: %s.\n", done.Grant.ID, done.Grant.Feature, done.Grant.Subject, grantText(&done.Grant))
			printChange(c, l, done)
			return nil
		})
	}
	c.AddCommand(grantListCommand(), grantRevokeCommand())
	return c
}

// grant reads the flags.
func (f *grantFlags) grant(subject, feature string, counted bool) (sql.NewGrant, error) {
	g := sql.NewGrant{Subject: subject, Feature: feature, Note: f.note, By: f.author}
	switch {
	case counted == f.unlimited:
		return g, usageError{errors.New("say how much: either --quantity N or --unlimited")}
	case counted && f.quantity < 1:
		return g, usageError{fmt.Errorf("--quantity %d: at least 1; `sidecar grant revoke ID` takes a grant back", f.quantity)}
	case f.until != "" && f.lasts != "":
		return g, usageError{errors.New("--until and --for exclude each other")}
	}
	if counted {
		g.Quantity = &f.quantity
	}
	if f.until != "" {
		until, err := parseUntil(f.until)
		if err != nil {
			return g, usageError{err}
		}
		g.Until = &until
	}
	if f.lasts != "" {
		var err error
		if g.For, err = config.ParsePeriod(f.lasts); err != nil {
			return g, usageError{fmt.Errorf("--for: %w; write 12h, 30d, 2w, month or year", err)}
		}
	}
	if g.By == "" {
		if u, err := user.Current(); err == nil {
			g.By = u.Username
		}
	}
	return g, nil
}

// parseUntil reads a date or a time; without a zone it is UTC's.
func parseUntil(text string) (time.Time, error) {
	for _, layout := range []string{time.DateOnly, "2006-01-02 15:04", time.DateTime, time.RFC3339} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("--until %q is no time: write 2026-12-31, '2026-12-31 18:00' or 2026-12-31T18:00:00Z", text)
}

func grantListCommand() *cobra.Command {
	var all bool
	c := &cobra.Command{Use: "list [SUBJECT]", Short: "Show the open grants", Args: cobra.MaximumNArgs(1)}
	c.Flags().BoolVar(&all, "all", false, "show those too that were revoked or have expired")
	asJSON := jsonFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return inInstalled(c, func(ctx context.Context, conn *sql.Session, _ *prepared) error {
			subject := ""
			if len(args) == 1 {
				subject = args[0]
			}
			grants, err := sql.ListGrants(ctx, conn, subject, all)
			if err != nil {
				return err
			}
			if *asJSON {
				return printJSON(c, grants)
			}
			for i := range grants {
				g := &grants[i]
				fmt.Fprintf(c.OutOrStdout(), "%6d  %-8s %s %s  %s\n", g.ID, endText(g), g.Subject, g.Feature, grantText(g))
			}
			if len(grants) == 0 {
				fmt.Fprintln(c.OutOrStdout(), "none")
			}
			return nil
		})
	}
	return c
}

func grantRevokeCommand() *cobra.Command {
	c := &cobra.Command{Use: "revoke ID", Short: "Take a grant back", Args: cobra.ExactArgs(1)}
	asJSON := jsonFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		id, err := strconv.ParseInt(args[0], 10, 64)
		if err != nil || id < 1 {
			return usageError{fmt.Errorf("%q is no grant's id: see `sidecar grant list`", args[0])}
		}
		return inInstalled(c, func(ctx context.Context, conn *sql.Session, p *prepared) error {
			done, err := sql.Revoke(ctx, conn, id)
			switch g := &done.Grant; {
			case err != nil:
				return asUsage(err)
			case !done.Ended:
				return fmt.Errorf("grant %d has ended already: %s at %s", id, endText(g), stamp(*g.EndedAt))
			case *asJSON:
				return printJSON(c, done)
			default:
				fmt.Fprintf(c.OutOrStdout(), "Grant %d of %s for %s is revoked.\n", id, g.Feature, g.Subject)
				printChange(c, p.plan.Loop(g.Feature), done)
				return nil
			}
		})
	}
	return c
}

// asUsage makes what the database refuses wrong use.
func asUsage(err error) error {
	var input *sql.InputError
	if errors.As(err, &input) {
		return usageError{err}
	}
	return err
}

// printChange says what a grant that came or went does to the limit, and who tells the flag. The loop is nil where
// the feature has left the plan.
func printChange(c *cobra.Command, l *loops.Loop, done sql.GrantChange) {
	out := c.OutOrStdout()
	if l == nil {
		fmt.Fprintln(out, "No loop has this feature any more.")
		return
	}
	fmt.Fprintf(out, "Limit: %s → %s.\n", limitText(done.Before), limitText(done.After))
	if l.Enforcement == loops.Strict {
		fmt.Fprintln(out, "consume_feature goes by it from now on.")
	}
	if done.Running {
		fmt.Fprintln(out, "The flag follows in a moment: a sidecar runs.")
	} else {
		fmt.Fprintln(out, "The flag follows when a sidecar runs: none does.")
	}
	if !done.Known {
		fmt.Fprintf(out, "Nobody has seen %s yet, as a user, with usage or with a subscription: is the id right?\n", done.Grant.Subject)
	}
}

// grantText says what a grant gives, until when, by whom and why.
func grantText(g *sql.Grant) string {
	text := "unlimited"
	if g.Quantity != nil {
		text = fmt.Sprintf("%d more", *g.Quantity)
	}
	if g.ExpiresAt != nil {
		text += " until " + stamp(*g.ExpiresAt)
	}
	text += ", by " + g.GrantedBy
	if g.Note != "" {
		text += " (" + g.Note + ")"
	}
	return text
}

// endText says how a grant ended, if it did.
func endText(g *sql.Grant) string {
	switch {
	case g.EndedAt == nil:
		return "open"
	case g.ExpiresAt != nil && !g.EndedAt.Before(*g.ExpiresAt):
		return "expired"
	default:
		return "revoked"
	}
}
