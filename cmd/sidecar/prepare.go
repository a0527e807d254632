package main

import (
	"context"
	"errors"
	"os"

	"github.com/jackc/pglogrepl"

	"github.com/tiergate/tiergate/internal/config"
	"github.com/tiergate/tiergate/internal/loops"
	"github.com/tiergate/tiergate/internal/mail"
	"github.com/tiergate/tiergate/internal/sql"
)

// prepared is a configuration that was read, and matched with the database it is for.
type prepared struct {
	settings config.Settings
	plan     *loops.Plan
	schema   string // the application's
	slot     string // the replication slot's name
	watches  []loops.Watch
	since    pglogrepl.LSN // where the WAL ended before the tables were looked up
	notes    []string      // what recognition has to say
}

// url returns the connection string of every connection.
func (p *prepared) url() string { return p.settings.Database.URL }

func (p *prepared) install() sql.InstallOptions {
	return sql.InstallOptions{Schema: p.schema, Watches: p.watches, AppRoles: p.settings.AppRoles, TestClock: p.settings.TestClock}
}

// readSettings reads the wiring of a folder.
func readSettings(dir string) (config.Settings, error) {
	return config.Load(dir, os.Environ())
}

// readPlan reads the loops of a folder.
func readPlan(dir string, s config.Settings) (*loops.Plan, error) {
	paths, err := config.FindLoops(dir, s.Loops)
	if err != nil {
		return nil, err
	}
	list, err := config.Loops(paths)
	if err != nil {
		return nil, err
	}
	return &loops.Plan{Loops: list, Tiers: s.Tiers, Grace: s.Grace}, nil
}

// match finds the application's tables. What was found is returned even with an error.
func match(ctx context.Context, conn *sql.Session, s config.Settings, plan *loops.Plan) (*prepared, error) {
	end, err := sql.WALEnd(ctx, conn)
	if err != nil {
		return nil, err
	}
	tables, err := sql.Catalog(ctx, conn)
	if err != nil {
		return nil, err
	}
	p := &prepared{settings: s, plan: plan, slot: sql.SlotName(conn.Database)}
	if p.since, err = pglogrepl.ParseLSN(end); err != nil {
		return nil, err
	}
	if p.schema, err = schemaOf(ctx, conn, s); err != nil {
		return nil, err
	}
	p.watches, p.notes, err = config.Recognise(catalog(tables), p.schema, s, plan.Loops)
	p.watches = append(p.watches, sql.OwnWatches()...)
	return p, err
}

// schemaOf returns the application's schema: the URL's, else the one its user works in.
func schemaOf(ctx context.Context, conn *sql.Session, s config.Settings) (string, error) {
	if s.Database.Schema != "" {
		return s.Database.Schema, nil
	}
	return sql.CurrentSchema(ctx, conn)
}

// applicationTables are the watched tables without our own.
func (p *prepared) applicationTables() []loops.Watch {
	return p.watches[:len(p.watches)-len(sql.OwnWatches())]
}

func catalog(tables []sql.Table) []config.CatalogTable {
	out := make([]config.CatalogTable, len(tables))
	for i, t := range tables {
		out[i] = config.CatalogTable{Schema: t.Schema, Name: t.Name, Key: t.Key, Unique: t.Unique, Shape: t.Shape, Kind: rune(t.Kind[0])}
		for _, c := range t.Columns {
			out[i].Columns = append(out[i].Columns, config.CatalogColumn(c))
		}
	}
	return out
}

// prepare does all that comes before the first statement that changes anything.
func prepare(ctx context.Context, dir string) (*prepared, error) {
	s, err := readSettings(dir)
	if err != nil {
		return nil, err
	}
	plan, err := readPlan(dir, s)
	if err != nil {
		return nil, err
	}
	return lookUp(ctx, s, plan)
}

// lookUp matches a configuration with the database as it is.
func lookUp(ctx context.Context, s config.Settings, plan *loops.Plan) (*prepared, error) {
	conn, err := sql.Connect(ctx, s.Database.URL, sql.ForCommand)
	if err != nil {
		return nil, err
	}
	defer conn.End()
	return match(ctx, conn, s, plan)
}

// mailer builds the mailer that the settings ask for.
func mailer(s config.Settings) (*mail.Mailer, error) {
	return mail.New(mail.Config{
		From: s.EmailFrom, UpgradeURL: s.UpgradeURL, ResendKey: string(s.ResendKey), ResendURL: s.ResendURL,
		SMTPURL: string(s.SMTPURL), Rate: s.EmailRate, Mode: s.EmailMode.String(), TemplatesDir: s.EmailTemplates,
	})
}

// checkTemplates makes sure that every template a loop names exists and uses only known variables.
func checkTemplates(m *mail.Mailer, plan *loops.Plan) error {
	var problems []error
	for _, name := range templates(plan) {
		problems = append(problems, m.Check(name))
	}
	return errors.Join(problems...)
}
