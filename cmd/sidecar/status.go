package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tiergate/tiergate/internal/sql"
)

// jsonFlag adds --json to a command that prints facts.
func jsonFlag(c *cobra.Command) *bool { return c.Flags().Bool("json", false, "print JSON") }

func printJSON(c *cobra.Command, facts any) error {
	out := json.NewEncoder(c.OutOrStdout())
	out.SetIndent("", "  ")
	return out.Encode(facts)
}

func readStatus(ctx context.Context, p *prepared) (sql.Status, error) {
	conn, err := sql.Connect(ctx, p.url(), sql.ForCommand)
	if err != nil {
		return sql.Status{}, err
	}
	defer conn.End()
	return sql.ReadStatus(ctx, conn, p.schema)
}

func statusCommand() *cobra.Command {
	c := &cobra.Command{Use: "status", Short: "Show where the sidecar stands: lag, retained WAL, flags, emails", Args: cobra.NoArgs}
	asJSON := jsonFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		return inDatabase(c, func(ctx context.Context, conn *sql.Session, p *prepared) error {
			st, err := sql.ReadStatus(ctx, conn, p.schema)
			if err != nil {
				return err
			}
			if *asJSON {
				return printJSON(c, st)
			}
			if !st.Installed {
				fmt.Fprintln(c.OutOrStdout(), "not installed: run `sidecar check`, then `sidecar run`")
				return errFound
			}
			printStatus(c, st)
			if !st.Running {
				return errFound
			}
			return nil
		})
	}
	return c
}

func printStatus(c *cobra.Command, st sql.Status) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(c.OutOrStdout(), "%-10s %s\n", name, fmt.Sprintf(format, args...))
	}
	if st.Running {
		line("sidecar", "running (%s), %s", st.Holder, st.Mode)
	} else {
		line("sidecar", "not running: flags stand still, windows still open in has_feature()")
	}
	line("lag", "%s, %.1f MB of WAL", time.Duration(st.LagSeconds*float64(time.Second)).Round(time.Millisecond), float64(st.LagBytes)/1e6)
	if st.Transaction != nil {
		line("piece", "of transaction %d, %d rows are in the flags", st.Transaction.Xid, st.Transaction.Rows)
	}
	if st.SourceTime != nil {
		line("newest", "change of %s", st.SourceTime.UTC().Format(time.RFC3339))
	}
	line("WAL", "%.1f MB kept by the server", float64(st.RetainedBytes)/1e6)
	line("subjects", "%d", st.Subjects)
	for _, f := range st.Features {
		counted := ""
		if !f.Counted {
			counted = "; new, and still to be counted"
		}
		over := ""
		if f.OverRun > 0 {
			over = fmt.Sprintf(", %d beyond the limit at most (30 days)", f.OverRun)
		}
		line("feature", "%s (%s): %d rows, %d blocked%s%s", f.Feature, f.Enforcement, f.Subjects, f.Blocked, over, counted)
	}
	line("emails", "%s", counts(st.Emails))
	line("events", "%s (30 days)", counts(st.Events))
}

func counts(by map[string]int64) string {
	if len(by) == 0 {
		return "none"
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(by)) {
		parts = append(parts, fmt.Sprintf("%d %s", by[name], name))
	}
	return strings.Join(parts, ", ")
}
