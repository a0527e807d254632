// Command sidecar follows an application's database and keeps, in a table the application reads, who
// may use what.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// version is set when a release is built.
var version = "dev"

// errFound ends a command that did its work and found a problem, which it has printed.
var errFound = errors.New("a problem was found")

// usageError is a command line that cannot be meant.
type usageError struct{ error }

func main() { os.Exit(run(os.Args[1:])) }

// run returns the exit code: 0 done, 1 found a problem, 2 wrong use.
func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := commands()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		fmt.Fprintln(os.Stderr, "sidecar:", err)
		return 2
	case errors.Is(err, errFound):
		return 1
	default:
		fmt.Fprintln(os.Stderr, "sidecar:", err)
		return 1
	}
}

func commands() *cobra.Command {
	root := &cobra.Command{
		Use:           "sidecar",
		Short:         "Counts usage from your database's change stream, blocks at the limit, prompts, and tells who converts",
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args:              cobra.NoArgs,
		RunE:              func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see `%s --help`", err, c.CommandPath())}
	})
	root.PersistentPreRunE = func(c *cobra.Command, _ []string) error {
		dir, err := c.Flags().GetString("dir")
		if err != nil {
			return err
		}
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			return usageError{fmt.Errorf("--dir %s: there is no such folder", dir)}
		}
		return nil
	}
	root.PersistentFlags().StringP("dir", "C", ".", "folder of skene.config.ts, sidecar.yaml and .env")
	root.AddCommand(runCommand(), checkCommand(), installCommand(), uninstallCommand(), statusCommand(), explainCommand(),
		verifyCommand(), resyncCommand(), grantCommand(), emailsCommand(), demoCommand(), versionCommand())
	strictArgs(root)
	return root
}

// strictArgs makes wrong arguments exit with 2.
func strictArgs(c *cobra.Command) {
	if args := c.Args; args != nil {
		c.Args = func(c *cobra.Command, given []string) error {
			if err := args(c, given); err != nil {
				return usageError{fmt.Errorf("%w; see `%s --help`", err, c.CommandPath())}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		strictArgs(sub)
	}
}

// logger writes text on a terminal, JSON elsewhere.
func logger() *slog.Logger {
	if term.IsTerminal(int(os.Stderr.Fd())) {
		return slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return slog.New(slog.NewJSONHandler(os.Stderr, nil))
}

func versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs, Run: func(c *cobra.Command, _ []string) {
		fmt.Fprintln(c.OutOrStdout(), version)
	}}
}
