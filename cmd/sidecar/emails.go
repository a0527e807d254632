package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/tiergate/tiergate/internal/sql"
)

func emailsCommand() *cobra.Command {
	c := &cobra.Command{Use: "emails", Short: "Look after the outbox", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	list := &cobra.Command{Use: "list", Short: "Show the newest emails: what left, what waits, what is dead and why", Args: cobra.NoArgs}
	asJSON := jsonFlag(list)
	list.RunE = func(c *cobra.Command, _ []string) error {
		return inInstalled(c, func(ctx context.Context, conn *sql.Session, _ *prepared) error {
			rows, err := sql.ListEmails(ctx, conn, 50)
			if err != nil {
				return err
			}
			if *asJSON {
				return printJSON(c, rows)
			}
			for _, m := range rows {
				fmt.Fprintf(c.OutOrStdout(), "%6d  %-8s %s %s %s  %s\n", m.ID, m.Status, m.Kind, m.Subject, m.Feature, m.Reason)
			}
			return nil
		})
	}
	retry := &cobra.Command{Use: "retry ID|all", Short: "Queue dead emails again", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := strconv.ParseInt(args[0], 10, 64)
			if all := args[0] == "all"; !all && (err != nil || id < 1) {
				return usageError{fmt.Errorf("%q is no email's id: see `sidecar emails list`", args[0])}
			}
			return inInstalled(c, func(ctx context.Context, conn *sql.Session, _ *prepared) error {
				queued, err := sql.RetryEmails(ctx, conn, id)
				if err == nil {
					fmt.Fprintf(c.OutOrStdout(), "%d queued again\n", queued)
				}
				return err
			})
		}}
	adopt := &cobra.Command{Use: "adopt", Short: "Send this database's emails from here, after it was moved", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return inInstalled(c, func(ctx context.Context, conn *sql.Session, _ *prepared) error { return sql.Adopt(ctx, conn) })
		}}
	c.AddCommand(list, retry, adopt)
	return c
}
