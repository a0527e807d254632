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
	"strings"
	"sync"
	"syscall"
	"time"

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
	bin      string // folder with postgres
	dir      string // everything of this server; removed by Stop
	password string
	port     int
	attr     *syscall.SysProcAttr
	keeper   *keeper

	mu     sync.Mutex // held while the server is started or ended
	server *process   // nil before the first start
}

// StartPostgres finds or fetches a server, creates its data and returns once it takes connections.
// The context bounds the start only; Stop ends the server. A *loops.Fault says what is missing.
func StartPostgres(ctx context.Context, o Options) (*Postgres, error) {
	attr, err := serverAccount()
	if err != nil {
		return nil, err
	}
	bin, err := newFinder(o.Version, o.Log, attr).find(ctx)
	if err != nil {
		return nil, err
	}
	p := &Postgres{bin: bin, attr: attr, password: rand.Text()}
	if err := p.create(ctx, o); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

func (p *Postgres) create(ctx context.Context, o Options) error {
	var err error
	if p.dir, err = makeServerDir(o.Dir, p.attr); err != nil {
		return err
	}
	if p.keeper, err = startKeeper(p.dir, p.attr); err != nil {
		return err
	}
	if err := p.initialise(ctx, o); err != nil {
		return err
	}
	return p.startOnFreePort(ctx)
}

// initialise creates the data folder and writes its configuration.
func (p *Postgres) initialise(ctx context.Context, o Options) error {
	secret := filepath.Join(p.dir, "password")
	if err := writeFor(p.attr, secret, p.password); err != nil {
		return err
	}
	defer os.Remove(secret)
	initdb, err := p.Command(ctx, "initdb", "--pgdata", p.data(), "--username", "postgres", "--pwfile", secret,
		"--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync")
	if err != nil {
		return err
	}
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

// startOnFreePort tries ports until one is still free when the server binds it.
func (p *Postgres) startOnFreePort(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		var err error
		if p.port, err = freePort(); err != nil {
			return err
		}
		err = p.start(ctx)
		if !errors.Is(err, errPortTaken) {
			return err
		}
	}
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
		return nil, &loops.Fault{Step: "run " + tool, Err: fmt.Errorf("it is not in %s", p.bin), Hint: installHint()}
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = environment(p.bin)
	cmd.Dir = p.dir
	cmd.SysProcAttr = p.attr
	return cmd, nil
}

// Restart ends the server in an orderly way if it runs, and starts it again at the same address.
func (p *Postgres) Restart(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.server.shutdown(ctx); err != nil {
		return err
	}
	for {
		err := p.start(ctx)
		// After Kill the operating system may still be clearing the dead server away.
		if !errors.Is(err, errPortTaken) && !errors.Is(err, errStillDying) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Kill ends every process of the server with SIGKILL, as a crash would; Restart recovers its data.
func (p *Postgres) Kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.server.kill()
}

// Stop ends the server and removes all its data. It may be called twice.
func (p *Postgres) Stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.keeper != nil {
		p.server.forget(p.data())
		p.keeper.close()
	}
	p.server.kill() // normally gone by now: only if someone killed the keeper
	if p.dir != "" {
		os.RemoveAll(p.dir)
	}
}

func (p *Postgres) data() string { return filepath.Join(p.dir, "data") }
