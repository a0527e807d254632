package config

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tiergate/tiergate/internal/loops"
	"github.com/tiergate/tiergate/internal/spell"
)

// Database is a connection string that was understood. Printed, it shows user, host and database and
// never the password.
type Database struct {
	Dialect string // "postgres"
	URL     string // for pgx, with the password: never print it
	Host    string // or the folder of a socket
	Port    uint16
	User    string
	Name    string   // of the database
	Schema  string   // the application's, from ?schema= or search_path; empty: the server's default
	Ignored []string // names of parameters that only the application's client knows, in order
	Product string   // who hosts it, as far as the address tells: "Supabase", "Aurora" …, see recognise; or ""
	Pooler  bool     // the connection goes through a pooler, which cannot carry a change stream
	Direct  string   // where Pooler: how to get at the direct connection, for people
}

// urlForm is what a connection string looks like.
const urlForm = "postgres://USER:PASSWORD@HOST:5432/DATABASE"

// String returns the address without the password.
func (d Database) String() string {
	if d.Dialect == "" {
		return ""
	}
	return fmt.Sprintf("%s://%s:***@%s:%d/%s", d.Dialect, d.User, d.Host, d.Port, d.Name)
}

// Format prints String for every verb.
func (d Database) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, d.String()) }

// LogValue keeps the password out of logs.
func (d Database) LogValue() slog.Value { return slog.StringValue(d.String()) }

// MarshalText keeps the password out of JSON and YAML.
func (d Database) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// ParseDatabase reads a connection string as SQLAlchemy, Prisma, node, JDBC and the hosts print it,
// or libpq's "host=… dbname=…". An error is a Fault with the way to write it, and never quotes a
// part that could be the password. It reads a CA file that the string names.
func ParseDatabase(raw string) (Database, error) {
	text := unwrap(raw)
	d := Database{Dialect: "postgres", URL: text}
	scheme, rest, isURL := strings.Cut(text, "://")
	isURL = isURL && regexp.MustCompile(`^[A-Za-z0-9+]+$`).MatchString(scheme)
	switch {
	case text == "":
		return Database{}, refuse("write "+urlForm, "the connection string is empty")
	case isURL:
		if err := checkScheme(scheme); err != nil {
			return Database{}, err
		}
		if err := d.clean(rest); err != nil {
			return Database{}, err
		}
	case !regexp.MustCompile(`^[a-z_]+\s*=`).MatchString(text):
		return Database{}, refuse("write "+urlForm, "this is not a PostgreSQL connection string")
	}

	cfg, err := pgconn.ParseConfig(d.URL)
	if err != nil {
		return Database{}, unreadable(err, isURL)
	}
	d.Host, d.Port, d.User, d.Name = cfg.Host, cfg.Port, cfg.User, cfg.Database
	if d.Schema == "" {
		d.Schema = searchPath(cfg.RuntimeParams)
	}
	d.recognise()
	return d, nil
}

func refuse(hint, format string, args ...any) error {
	return &loops.Fault{Step: "read the connection string", Err: fmt.Errorf(format, args...), Hint: hint}
}

// unwrap takes off what gets copied along: white space, quotes, "psql", "jdbc:".
func unwrap(raw string) string {
	text := strings.TrimSpace(raw)
	text = strings.TrimSpace(strings.TrimPrefix(text, "psql "))
	for _, quote := range []string{`"`, `'`, "`"} {
		if len(text) > 1 && strings.HasPrefix(text, quote) && strings.HasSuffix(text, quote) {
			text = strings.TrimSpace(text[1 : len(text)-1])
		}
	}
	return strings.TrimPrefix(text, "jdbc:")
}

func checkScheme(scheme string) error {
	base, _, _ := strings.Cut(strings.ToLower(scheme), "+") // postgresql+asyncpg
	switch base {
	case "postgres", "postgresql", "pgsql", "psql", "postgis":
		return nil
	case "mysql", "mysql2", "mariadb", "vitess":
		return refuse("this version works with PostgreSQL", "%s:// is not supported in this version", base)
	case "prisma":
		return refuse("write the database's own address into DIRECT_URL: "+urlForm, "%s:// is understood by Prisma's client only", base)
	default:
		return refuse("write "+urlForm, "this is not a PostgreSQL connection string")
	}
}

// clean takes the part after :// apart and puts it together again as pgx reads it: every part
// percent-encoded, and without the parameters that no server knows.
func (d *Database) clean(rest string) error {
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	authority, tail := rest[:end], rest[end:]
	if err := misplaced(authority, tail); err != nil {
		return err
	}
	path, query, _ := strings.Cut(tail, "?")

	var user string
	hosts := authority
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		var err error
		if user, err = encodeUser(authority[:at]); err != nil {
			return err
		}
		hosts = authority[at+1:]
	}
	if _, err := url.PathUnescape(hosts + path); err != nil {
		return unescaped('%')
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return refuse("write % as %25 and ; as %3B", "the parameters after ? cannot be read")
	}
	params, err := d.parameters(values)
	if err != nil {
		return err
	}
	d.URL = "postgres://" + user + hosts + path
	if len(params) > 0 {
		d.URL += "?" + strings.ReplaceAll(params.Encode(), "+", "%20")
	}
	return nil
}

// misplaced finds a character of the password that ends the address too early. Names of hosts and
// databases have no @, so that one behind the address gives it away.
func misplaced(authority, tail string) error {
	if tail == "" {
		return nil
	}
	path, query, _ := strings.Cut(tail, "?")
	key, _, _ := strings.Cut(query, "=")
	_, port, hasPort := strings.Cut(authority, ":")
	number := regexp.MustCompile(`^[0-9]*(,|$)`).MatchString(port)
	inPassword := strings.Contains(path, "@") || strings.Contains(key, "@") ||
		(!strings.Contains(authority, "@") && hasPort && !number && strings.Contains(tail, "@") && authority[0] != '[')
	if i := strings.IndexByte(tail, '#'); i >= 0 && !inPassword {
		tail, inPassword = tail[i:], true
	}
	if !inPassword {
		return nil
	}
	return unescaped(tail[0])
}

func unescaped(char byte) error {
	return refuse(fmt.Sprintf("write it as %%%02X (a password that is percent-encoded as a whole is always right)", char),
		"there is an unescaped %q, most likely in the password", string(char))
}

// encodeUser encodes user:password anew. An unescaped @ or : in the password is understood.
func encodeUser(info string) (string, error) {
	user, password, has := strings.Cut(info, ":")
	if password == "[YOUR-PASSWORD]" {
		return "", refuse("put the database's password in its place", "the password is still [YOUR-PASSWORD]")
	}
	var decoded [2]string
	for i, part := range []string{user, password} {
		text, err := url.PathUnescape(part)
		if err != nil {
			return "", unescaped('%')
		}
		decoded[i] = text
	}
	encoded := url.QueryEscape(decoded[0])
	if has {
		encoded += ":" + url.QueryEscape(decoded[1])
	}
	return strings.ReplaceAll(encoded, "+", "%20") + "@", nil // libpq reads a + as a plus
}

// parameters keeps what pgx and the server know, translates what others write differently, and
// notes the rest as ignored. A misspelt TLS parameter is refused: ignored it would weaken the connection.
func (d *Database) parameters(in url.Values) (url.Values, error) {
	out := url.Values{}
	for _, name := range slices.Sorted(maps.Keys(in)) {
		text := in.Get(name)
		switch {
		case text == "":
		case name == "schema" || name == "currentSchema":
			d.Schema, _, _ = strings.Cut(text, ",")
		case name == "ssl" || name == "sslmode":
			out.Set("sslmode", sslMode(text))
		case name == "sslcert" && !in.Has("sslkey"): // Prisma's name for the authority's certificate
			out.Set("sslrootcert", text)
		case slices.Contains(serverParameters(), name):
			out.Set(name, text)
		case strings.HasPrefix(name, "ssl") && !slices.Contains([]string{"sslaccept", "sslidentity", "sslfactory", "sslcompression"}, name):
			return nil, refuse(meant(spell.Closest(name, serverParameters())), "the parameter %s is unknown", name)
		default:
			d.Ignored = append(d.Ignored, name)
			d.Pooler = d.Pooler || (name == "pgbouncer" && text == "true")
		}
	}
	if in.Get("sslaccept") == "strict" && out.Get("sslmode") != "disable" {
		out.Set("sslmode", "verify-full")
	}
	return out, nil
}

// serverParameters are the ones that pgx reads itself, and the two that reach the server. Others that
// a server might know (time zone, timeouts) are the application's: the sidecar sets its own.
func serverParameters() []string {
	return []string{"host", "port", "user", "password", "dbname", "database", "passfile", "service", "servicefile", "connect_timeout",
		"sslmode", "sslkey", "sslcert", "sslcertmode", "sslrootcert", "sslnegotiation", "sslpassword", "sslsni", "target_session_attrs",
		"min_protocol_version", "max_protocol_version", "channel_binding", "require_auth", "krbsrvname", "krbspn", "options", "search_path"}
}

// sslMode translates asyncpg's and node's values into libpq's.
func sslMode(text string) string {
	switch text {
	case "true", "1", "on", "no-verify", `{"rejectUnauthorized":false}`:
		return "require"
	case "false", "0", "off":
		return "disable"
	case `{"rejectUnauthorized":true}`:
		return "verify-full"
	default:
		return text
	}
}

// searchPath returns the first schema of a search_path, be it a parameter or part of options.
func searchPath(params map[string]string) string {
	path := params["search_path"]
	if m := regexp.MustCompile(`(?:^|\s)(?:-c\s*|--)search_path=((?:\\.|\S)+)`).FindStringSubmatch(params["options"]); path == "" && m != nil {
		path = strings.ReplaceAll(m[1], `\`, "")
	}
	for schema := range strings.SplitSeq(path, ",") {
		if schema = strings.Trim(strings.TrimSpace(schema), `"`); schema != "" && schema != "$user" {
			return schema
		}
	}
	return ""
}

// unreadable passes on why pgx refuses a string, without the string. Where keywords cannot be told
// from values, the reason itself may quote the password.
func unreadable(err error, isURL bool) error {
	_, reason, found := strings.Cut(err.Error(), "`: ")
	var parse *pgconn.ParseConfigError
	if !isURL || !found || !errors.As(err, &parse) {
		return refuse("write key=value pairs with spaces between them, a value with spaces in 'single quotes'; or "+urlForm, "the connection string cannot be read")
	}
	return refuse("the form is "+urlForm, "%s", reason)
}
