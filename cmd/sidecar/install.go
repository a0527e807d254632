package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tiergate/tiergate/internal/sql"
)

// inDatabase runs a command that needs the configuration matched with the database.
func inDatabase(c *cobra.Command, work func(ctx context.Context, conn *sql.Session, p *prepared) error) error {
	dir, err := c.Flags().GetString("dir")
	if err != nil {
		return err
	}
	p, err := prepare(c.Context(), dir)
	if err != nil {
		return err
	}
	conn, err := sql.Connect(c.Context(), p.url(), sql.ForCommand)
	if err != nil {
		return err
	}
	defer conn.End()
	return work(c.Context(), conn, p)
}

// inInstalled runs a command that needs the sidecar's own tables too.
func inInstalled(c *cobra.Command, work func(ctx context.Context, conn *sql.Session, p *prepared) error) error {
	return inDatabase(c, func(ctx context.Context, conn *sql.Session, p *prepared) error {
		if err := sql.RequireInstalled(ctx, conn); err != nil {
			return err
		}
		return work(ctx, conn, p)
	})
}

func installCommand() *cobra.Command {
	var show bool
	c := &cobra.Command{
		Use: "install", Short: "Create tables, functions and publications (run does it by itself)", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return inDatabase(c, func(ctx context.Context, conn *sql.Session, p *prepared) error {
				if show {
					return printScript(ctx, c, conn, p)
				}
				changed, err := sql.Install(ctx, conn, p.install())
				switch {
				case err != nil:
					return err
				case changed:
					fmt.Fprintf(c.OutOrStdout(), "Installed: schema tiergate, %s.feature_access, publications %s and %s.\n", p.schema, sql.UsagePublication, sql.StatePublication)
				default:
					fmt.Fprintln(c.OutOrStdout(), "Nothing to do: this version is installed.")
				}
				return nil
			})
		},
	}
	c.Flags().BoolVar(&show, "print", false, "print the SQL instead of running it, for those who run migrations themselves")
	return c
}

func printScript(ctx context.Context, c *cobra.Command, conn *sql.Session, p *prepared) error {
	script, err := sql.Script(ctx, conn, p.install())
	if err != nil {
		return err
	}
	if len(script) == 0 {
		fmt.Fprintln(c.OutOrStdout(), "-- Nothing to do: this version is installed.")
		return nil
	}
	fmt.Fprintln(c.OutOrStdout(), "BEGIN;")
	for _, statement := range script {
		fmt.Fprintln(c.OutOrStdout(), strings.TrimSuffix(strings.TrimSpace(statement), ";")+";")
	}
	fmt.Fprintln(c.OutOrStdout(), "COMMIT;")
	return nil
}

func uninstallCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "uninstall", Short: "Remove everything from the database: slot, publications, functions, tables, feature_access", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			dir, err := c.Flags().GetString("dir")
			if err != nil {
				return err
			}
			// The loops and tables may be gone by now: only the address matters.
			settings, err := readSettings(dir)
			if err != nil {
				return err
			}
			ctx := c.Context()
			conn, err := sql.Connect(ctx, settings.Database.URL, sql.ForCommand)
			if err != nil {
				return err
			}
			defer conn.End()
			schema, err := schemaOf(ctx, conn, settings)
			if err != nil {
				return err
			}
			if !yes {
				if err := confirm(c, fmt.Sprintf("Remove schema tiergate and %s.feature_access from %s?", schema, settings.Database)); err != nil {
					return err
				}
			}
			if err := sql.LockUnlessRunning(ctx, conn); err != nil {
				return err
			}
			if err := sql.Uninstall(ctx, conn, schema); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), "Removed. Nothing of Tiergate is left in the database.")
			return nil
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func confirm(c *cobra.Command, question string) error {
	fmt.Fprintf(c.OutOrStdout(), "%s Type yes: ", question)
	answer, err := bufio.NewReader(c.InOrStdin()).ReadString('\n')
	if strings.TrimSpace(answer) == "yes" {
		return nil
	}
	if err != nil {
		return usageError{errors.New("nobody answered: pass --yes to go on without asking")}
	}
	return errors.New("nothing was changed")
}
