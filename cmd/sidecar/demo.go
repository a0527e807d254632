package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tiergate/tiergate/internal/demo"
)

func demoCommand() *cobra.Command {
	var keep bool
	c := &cobra.Command{
		Use: "demo", Short: "Watch users being counted, blocked, mailed, upgraded and let in again; needs nothing", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			// A closed terminal and a reader who left (demo | head) must not leave anything running either.
			ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGHUP, syscall.SIGPIPE)
			defer stop()
			executable, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program, which the demo starts as its sidecar: %w", err)
			}
			out := c.OutOrStdout()
			terminal := out == os.Stdout && term.IsTerminal(int(os.Stdout.Fd()))
			return demo.Run(ctx, demo.Options{Executable: executable, Out: out, Keep: keep,
				Colour: terminal && os.Getenv("NO_COLOR") == ""})
		},
	}
	c.Flags().BoolVar(&keep, "keep", false, "stay up afterwards, to look around; Ctrl-C ends it")
	return c
}
