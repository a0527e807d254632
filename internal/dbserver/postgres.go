// Package dbserver runs private database servers for the demo, the tests and the benchmarks: own
// data folder, free loopback port, no system service, nothing installed. A server never outlives the process that started it, however that process ends.
package dbserver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
)

// Options say what server to start. The zero value is a durable server of any supported version
// with logical replication.
type Options struct {
	Version  string            // "15" to "18"; empty: $TIERGATE_POSTGRES_VERSION, else any
	Settings map[string]string // lines for postgresql.conf; they win over ours
	Fast     bool              // no fsync: survives Kill, but not a power cut
	Log      *slog.Logger      // progress: downloads; nil: silent
	Dir      string            // where the server's folder is made; empty: the system's temporary folder
}

// Postgres is a running private server. Its methods may be called from several goroutines.
type Postgres struct {
	instance
	password string
}

// StartPostgres finds or fetches a server, creates its data and returns once it takes connections.
// The context bounds the start only; Stop ends the server. A *loops.Fault says what is missing.
func StartPostgres(ctx context.Context, o Options) (*Postgres, error) {
	product, err := postgres(o.Version)
	if err != nil {
		return nil, err
	}
	attr, err := serverAccount()
	if err != nil {
		return nil, err
	}
	programs, err := newFinder(product, o.Log, attr).find(ctx)
	if err != nil {
		return nil, err
	}
	p := &Postgres{password: rand.Text()}
	// A postmaster that is killed leaves its children behind; at SIGQUIT it ends them.
	p.instance = instance{programs: programs, engine: p, attr: attr, quit: syscall.SIGINT, abort: "QUIT"}
	if err := p.create(ctx, o.Dir, func() error { return p.initialise(ctx, o) }); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

// initialise creates the data folder and writes its configuration.
func (p *Postgres) initialise(ctx context.Context, o Options) error {
	secret := filepath.Join(p.dir, "password")
	if err := writeFor(p.attr, secret, p.password); err != nil {
		return err
	}
	defer os.Remove(secret)
	initdb := p.command(ctx, p.creator, "--pgdata", p.data(), "--username", "postgres", "--pwfile", secret,
		"--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync")
	initdb.Dir = p.dir
	initdb.SysProcAttr = p.attr
	if out, err := initdb.CombinedOutput(); err != nil {
		return &loops.Fault{Step: "create a private PostgreSQL in " + p.dir, Err: fmt.Errorf("initdb: %w\n%s", err, out),
			Hint: "free disk space there, or set TMPDIR to another folder"}
	}
	conf, err := os.OpenFile(filepath.Join(p.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = io.WriteString(conf, configuration(o))
	return errors.Join(err, conf.Close())
}

// configuration returns the lines appended to postgresql.conf.
func configuration(o Options) string {
	lines := map[string]string{
		"listen_addresses":        "127.0.0.1",
		"unix_socket_directories": "", // a socket's path may be 107 bytes: too few for some temporary folders
		"wal_level":               "logical",
		"jit":                     "off", // its library is not among the fetched ones

		// In the data folder, so that a killed server leaves nothing behind in /dev/shm.
		"dynamic_shared_memory_type": "mmap",

		"lc_messages": "C",
		"timezone":    "UTC",
	}
	if o.Fast {
		lines["fsync"] = "off"
		lines["full_page_writes"] = "off"
	}
	maps.Copy(lines, o.Settings)
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		value := strings.NewReplacer(`'`, `''`, `\`, `\\`).Replace(lines[name])
		fmt.Fprintf(&b, "%s = '%s'\n", name, value)
	}
	return b.String()
}

// URL returns a connection string for the superuser; without name, to the database "postgres".
func (p *Postgres) URL(name string) string {
	if name == "" {
		name = "postgres"
	}
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword("postgres", p.password),
		Host:     fmt.Sprintf("127.0.0.1:%d", p.port),
		Path:     "/" + name,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// CreateDatabase creates an empty database.
func (p *Postgres) CreateDatabase(ctx context.Context, name string) error {
	conn, err := pgx.Connect(ctx, p.URL(""))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()); err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	return nil
}

// Command prepares a program that came with the server, such as pgbench or pg_recvlogical. A fetched
// server may lack it: the *loops.Fault then says so.
func (p *Postgres) Command(ctx context.Context, tool string, args ...string) (*exec.Cmd, error) {
	path := filepath.Join(p.bin, tool)
	if _, err := os.Stat(path); err != nil {
		return nil, &loops.Fault{Step: "run " + tool, Err: fmt.Errorf("it is not in %s", p.bin), Hint: "install the programs that belong to it, or set TIERGATE_POSTGRES to a folder that holds it"}
	}
	cmd := p.command(ctx, path, args...)
	cmd.Dir = p.dir
	cmd.SysProcAttr = p.attr
	return cmd, nil
}

func (p *Postgres) serve(ctx context.Context, port int) *exec.Cmd {
	return p.command(ctx, p.programs.server, "-D", p.data(), "-p", strconv.Itoa(port))
}

func (p *Postgres) ping(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, p.URL(""))
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

func (p *Postgres) refusal(log string) error {
	switch {
	case strings.Contains(log, "could not create any TCP/IP sockets"):
		return errPortTaken
	case strings.Contains(log, "pre-existing shared memory block"):
		return errStillDying
	default:
		return nil
	}
}
