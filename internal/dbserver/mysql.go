package dbserver

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/go-sql-driver/mysql"

	"github.com/tiergate/tiergate/internal/loops"
)

// MySQLOptions say what server to start. The zero value is a durable server of $TIERGATE_MYSQL_SERVER, else MariaDB, whose
// binary log has row events with column names, and GTIDs that are enforced.
type MySQLOptions struct {
	Flavor   string            // MariaDB or OracleMySQL; empty: $TIERGATE_MYSQL_SERVER, else MariaDB
	Settings map[string]string // server variables, such as "binlog_row_image"; they win over ours
	Fast     bool              // no fsync: survives Kill, but not a power cut

	// Shipped leaves row metadata (MySQL: MINIMAL, MariaDB: NO_LOG, both without column names) and GTIDs as the server ships
	// them. Only the binary log is switched on, with row events, which MySQL ships so and MariaDB does not.
	Shipped bool
	// NoGTID turns gtid_mode off on MySQL, which newer versions ship on, and gtid_strict_mode on MariaDB, whose events always have GTIDs.
	NoGTID bool

	Log *slog.Logger // progress: downloads; nil: silent
	Dir string       // where the server's folder is made; empty: the system's temporary folder
}

// MySQL is a running private MariaDB or MySQL. Its methods may be called from several goroutines.
type MySQL struct {
	instance
	// Flavor is MariaDB or OracleMySQL.
	Flavor   string
	options  MySQLOptions
	password string
}

// StartMySQL finds or fetches a server, creates its data and returns once it takes connections.
// The context bounds the start only; Stop ends the server. A *loops.Fault says what is missing; behind it is ErrMissing.
func StartMySQL(ctx context.Context, o MySQLOptions) (*MySQL, error) {
	flavor := flavorOr(o.Flavor)
	product, err := mysqlProduct(flavor)
	if err != nil {
		return nil, err
	}
	attr, err := serverAccount()
	if err != nil {
		return nil, err
	}
	f := newFinder(product, o.Log, attr)
	programs, err := f.find(ctx)
	if err != nil {
		return nil, err
	}
	m := &MySQL{Flavor: flavor, options: o, password: rand.Text()}
	m.instance = instance{programs: programs, engine: m, attr: attr, quit: syscall.SIGTERM, abort: "KILL"}
	if err := m.create(ctx, o.Dir, func() error { return m.initialise(ctx, f) }); err != nil {
		m.Stop()
		return nil, err
	}
	return m, nil
}

// initialise copies freshly created data, which are made once for each version: MySQL takes five seconds for them.
func (m *MySQL) initialise(ctx context.Context, f *finder) error {
	fresh := download{folder: strings.Join([]string{"data", m.Flavor, m.version}, "-"), unpack: m.createData}
	err := f.once(ctx, fresh)
	if err == nil {
		err = m.run(m.dir, exec.CommandContext(ctx, "cp", "-R", filepath.Join(f.cache, fresh.folder, "data"), m.data()))
	}
	if err != nil {
		return &loops.Fault{Step: "create a private " + m.kind + " in " + m.dir, Err: err,
			Hint: "free disk space there and in " + f.cache + ", or set TMPDIR and TIERGATE_CACHE to other folders"}
	}
	// Not in the binary log: the first GTID is the caller's.
	return writeFor(m.attr, m.init(), fmt.Sprintf("SET SESSION sql_log_bin = 0;\nALTER USER root@localhost IDENTIFIED BY '%s';\n", m.password))
}

// createData fills a folder of the cache with data whose root has no password, readable to every user of the cache.
func (m *MySQL) createData(ctx context.Context, into string) error {
	if m.attr.Credential != nil {
		if err := os.Chown(into, int(m.attr.Credential.Uid), int(m.attr.Credential.Gid)); err != nil {
			return err
		}
	}
	data := filepath.Join(into, "data")
	create := []string{"--initialize-insecure"}
	if m.Flavor == MariaDB {
		create = []string{"--auth-root-authentication-method=normal", "--skip-test-db"}
	}
	args := slices.Concat(m.places(), []string{"--datadir=" + data}, smallRedo(), create)
	cmd := m.command(ctx, m.creator, args...)
	cmd.Env = append(cmd.Env, "TMPDIR="+into) // see serve
	if err := m.run(into, cmd); err != nil {
		return err
	}
	os.Remove(filepath.Join(data, "auto.cnf")) // MySQL's: each server makes a UUID of its own
	return m.run(into, exec.CommandContext(ctx, "chmod", "-R", "a+rX", into))
}

// run runs a program to its end as the server's user, to whom what it makes belongs.
func (m *MySQL) run(dir string, cmd *exec.Cmd) error {
	cmd.Dir = dir
	cmd.SysProcAttr = m.attr
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd.Path, err, out)
	}
	return nil
}

// smallRedo returns options, by the names of both flavors, for a redo log that is quickly copied.
func smallRedo() []string {
	return []string{"--loose-innodb-log-file-size=32M", "--loose-innodb-redo-log-capacity=32M"}
}

// places are the options that tell a fetched server where its files are; an installed one knows.
func (m *MySQL) places() []string {
	options := []string{"--no-defaults"}
	if root := fetchedRoot(m.bin); root != "" {
		options = append(options, "--basedir="+root+"/usr", "--lc-messages-dir="+root+"/usr/share/mysql",
			"--character-sets-dir="+root+"/usr/share/mysql/charsets", "--plugin-dir="+root+"/usr/lib/mysql/plugin")
	}
	return options
}

func (m *MySQL) serve(ctx context.Context, port int) *exec.Cmd {
	args := slices.Concat(m.places(), smallRedo(), []string{"--datadir=" + m.data(), "--init-file=" + m.init(), "--bind-address=127.0.0.1", fmt.Sprintf("--port=%d", port),
		"--tmpdir=" + m.dir, // a MariaDB that starts removes the temporary tables of all others in it, and those crash
		"--socket=s",        // in the data folder: a socket's path may be 107 bytes, too few for some temporary folders
		"--pid-file=server.pid", "--loose-mysqlx=OFF", "--secure-file-priv=",
		"--innodb-buffer-pool-size=64M", "--performance-schema=OFF", "--innodb-use-native-aio=OFF",
		"--character-set-server=utf8mb4", "--default-time-zone=+00:00", "--log-bin=binlog", "--binlog-format=ROW"})
	if !m.options.Shipped {
		args = append(args, "--binlog-row-metadata=FULL")
	}
	switch {
	case m.options.NoGTID:
		args = append(args, "--loose-gtid-strict-mode=OFF", "--loose-gtid-mode=OFF", "--loose-enforce-gtid-consistency=OFF")
	case !m.options.Shipped:
		args = append(args, "--loose-gtid-strict-mode=ON", "--loose-gtid-mode=ON", "--loose-enforce-gtid-consistency=ON")
	}
	if m.options.Fast {
		// 2, not 0: a committed transaction is with the operating system, so that Kill loses none.
		args = append(args, "--sync-binlog=0", "--innodb-flush-log-at-trx-commit=2")
	}
	for _, name := range slices.Sorted(maps.Keys(m.options.Settings)) {
		args = append(args, "--"+name+"="+m.options.Settings[name]) // the last one counts
	}
	return m.command(ctx, m.programs.server, args...)
}

func (m *MySQL) ping(ctx context.Context) error {
	db, err := m.open("")
	if err != nil {
		return err
	}
	return errors.Join(db.PingContext(ctx), db.Close())
}

func (m *MySQL) refusal(log string) error {
	if strings.Contains(log, "Bind on TCP/IP port") {
		return errPortTaken
	}
	return nil
}

// Version returns what the server calls itself: "9.7.4", "10.11.14-MariaDB-0+deb12u2".
func (m *MySQL) Version() string { return m.version }

// DSN returns a connection string for github.com/go-sql-driver/mysql, for root; without name, to no database.
func (m *MySQL) DSN(name string) string { return m.config(name).FormatDSN() }

// URL returns the same as a mysql:// URL.
func (m *MySQL) URL(name string) string {
	c := m.config(name)
	u := url.URL{Scheme: "mysql", User: url.UserPassword(c.User, c.Passwd), Host: c.Addr, Path: "/" + name}
	return u.String()
}

func (m *MySQL) config(name string) *mysql.Config {
	c := mysql.NewConfig()
	c.User, c.Passwd, c.DBName = "root", m.password, name
	c.Net, c.Addr = "tcp", fmt.Sprintf("127.0.0.1:%d", m.port)
	return c
}

func (m *MySQL) open(name string) (*sql.DB, error) {
	c := m.config(name)
	c.Logger = &mysql.NopLogger{} // while it starts, each attempt fails
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

// CreateDatabase creates an empty database.
func (m *MySQL) CreateDatabase(ctx context.Context, name string) (err error) {
	db, err := m.open("")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := db.ExecContext(ctx, "CREATE DATABASE `"+strings.ReplaceAll(name, "`", "``")+"`"); err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	return nil
}

func (m *MySQL) init() string { return filepath.Join(m.dir, "init.sql") }
