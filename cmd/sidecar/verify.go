package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tiergate/tiergate/internal/sql"
)

func verifyCommand() *cobra.Command {
	c := &cobra.Command{Use: "verify", Short: "Compare the flags with the data, while the sidecar runs", Args: cobra.NoArgs}
	asJSON := jsonFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		return inInstalled(c, func(ctx context.Context, _ *sql.Session, p *prepared) error {
			conn, err := sql.Connect(ctx, p.url(), sql.ForVerify)
			if err != nil {
				return err
			}
			defer conn.End()
			report, err := sql.Verify(ctx, conn, sql.Options{Schema: p.schema, Plan: p.plan, Watches: p.watches})
			if err != nil {
				return err
			}
			if *asJSON {
				if err := printJSON(c, report); err != nil {
					return err
				}
			} else {
				printReport(c, report)
			}
			if len(report.Findings) > 0 {
				return errFound
			}
			return nil
		})
	}
	return c
}

func printReport(c *cobra.Command, r sql.Report) {
	out := c.OutOrStdout()
	fmt.Fprintf(out, "%d rows compared", r.Compared)
	if r.Purged > 0 {
		fmt.Fprintf(out, ", %d hold more than the usage table still shows (purged since)", r.Purged)
	}
	fmt.Fprintln(out)
	if len(r.Uncounted) > 0 {
		fmt.Fprintf(out, "not compared, because its loop is new and still to be counted: %s\n", strings.Join(r.Uncounted, ", "))
	}
	for _, f := range r.Findings {
		fmt.Fprintf(out, "✗ %s %s %s: %s\n", f.Problem, f.Subject, f.Feature, f.Detail)
	}
	if len(r.Findings) == 0 {
		fmt.Fprintln(out, "clean: every flag agrees with the data")
	} else {
		fmt.Fprintln(out, "`sidecar resync` counts again; tell us how this came about")
	}
}

func resyncCommand() *cobra.Command {
	var down bool
	c := &cobra.Command{
		Use: "resync", Short: "Count everything again; the flags stand until they are replaced", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return inInstalled(c, func(ctx context.Context, conn *sql.Session, _ *prepared) error {
				if err := sql.Resync(ctx, conn, down); err != nil {
					return err
				}
				fmt.Fprintln(c.OutOrStdout(), "The sidecar counts again: at once if it runs, else when it starts.")
				return nil
			})
		},
	}
	c.Flags().BoolVar(&down, "down", false, "lower counts to what the usage table still shows; without it, deleted usage stays counted")
	return c
}
