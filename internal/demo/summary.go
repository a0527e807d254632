package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// ending is what came of the story.
type ending struct {
	served, refused, slipped int
	worst                    time.Duration // from a commit to the flag it closed
	walls                    []string      // whose flag closed at some time
	blocked, converted       []string      // whose flag is closed now, and who converted
	mailed                   []string      // the recipients, one for each mail
	requests                 int           // to Resend
	verified                 string        // what `sidecar verify` printed
	verifyErr                error
}

// summarise waits until nothing is under way, prints what came of it all and compares that with what
// should have.
func (p *plot) summarise(ctx context.Context) error {
	err := await(ctx, "the outbox to be empty", func() (bool, error) {
		var waiting int
		err := p.app.pool.QueryRow(ctx, `SELECT count(*) FROM tiergate.email WHERE status IN ('queued', 'sending')`).Scan(&waiting)
		return waiting == 0, err
	})
	if err != nil {
		return err
	}
	p.say("verify", plain, "sidecar verify compares every flag with the data …")
	e, err := p.ending(ctx)
	if err != nil {
		return err
	}
	p.print(e)
	return e.judge()
}

func (p *plot) ending(ctx context.Context) (*ending, error) {
	e := &ending{requests: p.resend.Requests()}
	for _, c := range p.customers() {
		e.served, e.refused, e.slipped = e.served+c.served, e.refused+c.refused, e.slipped+c.slipped
		e.worst = max(e.worst, c.closed)
		if c.closed > 0 {
			e.walls = append(e.walls, c.id)
		}
	}
	for _, m := range p.resend.Inbox() {
		name, _, _ := strings.Cut(m.To[0], "@")
		e.mailed = append(e.mailed, name)
	}
	slices.Sort(e.mailed)
	e.verified, e.verifyErr = p.sidecar.command(ctx, "verify")
	var err error
	if e.blocked, err = p.names(ctx, `SELECT subject_id FROM feature_access WHERE NOT allowed ORDER BY 1`); err != nil {
		return nil, err
	}
	e.converted, err = p.names(ctx, `SELECT subject_id FROM tiergate.access_event WHERE kind = 'converted' ORDER BY 1`)
	return e, err
}

func (p *plot) names(ctx context.Context, query string) ([]string, error) {
	rows, err := p.app.pool.Query(ctx, query)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// twice counts the mails that somebody already had.
func (e *ending) twice() int {
	return len(e.mailed) - len(slices.Compact(slices.Clone(e.mailed)))
}

func (p *plot) print(e *ending) {
	p.text("\n")
	p.fact("calls", e.served+e.refused, fmt.Sprintf("by %d users at once", len(p.customers())))
	p.fact("served", e.served, "")
	p.fact("refused", e.refused, "with 402")
	p.fact("slipped through", e.slipped, "served between a commit and the flag that it closed")
	p.fact("blocked", len(e.walls), fmt.Sprintf("%s; still out: %s", strings.Join(e.walls, ", "), strings.Join(e.blocked, ", ")))
	p.fact("worst latency", ms(e.worst), "from the commit to the closed flag")
	p.fact("mails", len(e.mailed), fmt.Sprintf("%s; %d requests, one of them cut off by kill -9", strings.Join(e.mailed, ", "), e.requests))
	p.fact("mailed twice", e.twice(), "")
	p.fact("conversions", len(e.converted), strings.Join(e.converted, ", "))
	p.fact("verify", verdict(e.verifyErr), strings.ReplaceAll(e.verified, "\n", "; "))
}

func verdict(err error) string {
	if err != nil {
		return "✗"
	}
	return "✓"
}

// judge names everything that is not as promised.
func (e *ending) judge() error {
	var problems []error
	for _, claim := range []struct {
		what      string
		got, want []string
	}{
		{"blocked at some time", e.walls, []string{"ann", "bob", "cyd", "dan"}},
		{"blocked at the end", e.blocked, []string{"bob", "cyd", "dan"}},
		{"mailed", e.mailed, []string{"ann", "bob", "cyd", "dan"}},
		{"converted", e.converted, []string{"ann"}},
	} {
		if !slices.Equal(claim.got, claim.want) {
			problems = append(problems, fmt.Errorf("%s: %v, expected %v", claim.what, claim.got, claim.want))
		}
	}
	if e.verifyErr != nil {
		problems = append(problems, fmt.Errorf("sidecar verify: %w: %s", e.verifyErr, e.verified))
	}
	return errors.Join(problems...)
}
