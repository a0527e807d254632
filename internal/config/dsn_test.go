package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
)

// withoutPG hides the variables that pgx reads as libpq does.
func withoutPG(t *testing.T) {
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "PG") {
			t.Setenv(name, "")
		}
	}
}

func TestParseDatabase(t *testing.T) {
	withoutPG(t)
	tests := []struct {
		name, raw string
		want      string // user:password@host:port/database
		more      Database
		tls       string // "": as the server likes; "none", "any certificate", "verified"
	}{
		{"plain", "postgres://u:p@h:5433/db", "u:p@h:5433/db", Database{}, ""},
		{"postgresql", "postgresql://u:p@h/db", "u:p@h:5432/db", Database{}, ""},
		{"white space and double quotes", " \"postgres://u:p@h/db\"\n", "u:p@h:5432/db", Database{}, ""},
		{"single quotes", "'postgres://u:p@h/db'", "u:p@h:5432/db", Database{}, ""},
		{"Neon's psql command", "psql 'postgresql://u:p@h/db?sslmode=require'", "u:p@h:5432/db", Database{}, "any certificate"},
		{"upper case", "POSTGRES://u:p@h/db", "u:p@h:5432/db", Database{}, ""},
		{"GeoDjango", "postgis://u:p@h/db", "u:p@h:5432/db", Database{}, ""},

		{"SQLAlchemy asyncpg", "postgresql+asyncpg://u:p@h/db?ssl=require&prepared_statement_cache_size=0", "u:p@h:5432/db", Database{Ignored: []string{"prepared_statement_cache_size"}}, "any certificate"},
		{"SQLAlchemy psycopg", "postgresql+psycopg://u:p@h/db?sslmode=disable", "u:p@h:5432/db", Database{}, "none"},
		{"SQLAlchemy psycopg2", "postgresql+psycopg2://u:p@/db?host=/var/run/postgresql", "u:p@/var/run/postgresql:5432/db", Database{}, ""},
		{"SQLAlchemy search_path", "postgresql+psycopg://u:p@h/db?options=-csearch_path%3Dshop,public", "u:p@h:5432/db", Database{Schema: "shop"}, ""},
		{"search_path in options with spaces", "postgresql://u:p@h/db?options=-c%20statement_timeout%3D5s+-c+search_path%3D%22%24user%22%2Cshop", "u:p@h:5432/db", Database{Schema: "shop"}, ""},
		{"search_path", "postgresql://u:p@h/db?search_path=shop", "u:p@h:5432/db", Database{Schema: "shop"}, ""},
		{"asyncpg ssl=false", "postgresql+asyncpg://u:p@h/db?ssl=false", "u:p@h:5432/db", Database{}, "none"},
		{"asyncpg verify-full", "postgresql+asyncpg://u:p@h/db?ssl=verify-full", "u:p@h:5432/db", Database{}, "verified"},

		{"Prisma schema", "postgresql://u:p@h:5432/db?schema=shop", "u:p@h:5432/db", Database{Schema: "shop"}, ""},
		{"Prisma pool", "postgresql://u:p@h:5432/db?schema=public&connection_limit=5&pool_timeout=10&socket_timeout=3&statement_cache_size=0&connect_timeout=9", "u:p@h:5432/db",
			Database{Schema: "public", Ignored: []string{"connection_limit", "pool_timeout", "socket_timeout", "statement_cache_size"}}, ""},
		{"Prisma pgbouncer", "postgresql://u:p@h:5432/db?pgbouncer=true", "u:p@h:5432/db",
			Database{Ignored: []string{"pgbouncer"}, Pooler: true, Direct: "the address of the database itself, without the pooler"}, ""},
		{"Prisma TLS", "postgresql://u:p@h/db?sslmode=require&sslaccept=accept_invalid_certs&sslidentity=client.p12&sslpassword=x", "u:p@h:5432/db",
			Database{Ignored: []string{"sslaccept", "sslidentity"}}, "any certificate"},
		{"Prisma strict", "postgresql://u:p@h/db?sslmode=require&sslaccept=strict", "u:p@h:5432/db", Database{Ignored: []string{"sslaccept"}}, "verified"},
		{"Prisma Postgres", "postgres://u:p@pooled.db.prisma.io:5432/postgres?sslmode=require", "u:p@pooled.db.prisma.io:5432/postgres",
			Database{Product: "Prisma Postgres", Pooler: true, Direct: "host db.prisma.io"}, "any certificate"},

		{"node ssl=true", "postgres://u:p@h/db?ssl=true", "u:p@h:5432/db", Database{}, "any certificate"},
		{"node no-verify", "postgres://u:p@h/db?sslmode=no-verify&uselibpqcompat=true", "u:p@h:5432/db", Database{Ignored: []string{"uselibpqcompat"}}, "any certificate"},
		{"node rejectUnauthorized", `postgres://u:p@h/db?ssl={"rejectUnauthorized":true}`, "u:p@h:5432/db", Database{}, "verified"},
		{"JDBC", "jdbc:postgresql://h:5432/db?user=u&password=p%26q&ssl=true&currentSchema=shop,public&prepareThreshold=0", "u:p&q@h:5432/db",
			Database{Schema: "shop", Ignored: []string{"prepareThreshold"}}, "any certificate"},
		{"Rails and Symfony", "postgres://u:p@h/db?pool=5&encoding=unicode&serverVersion=16&charset=utf8", "u:p@h:5432/db",
			Database{Ignored: []string{"charset", "encoding", "pool", "serverVersion"}}, ""},
		{"timeouts are the application's", "postgres://u:p@h/db?application_name=web&statement_timeout=5000&keepalives=1", "u:p@h:5432/db",
			Database{Ignored: []string{"application_name", "keepalives", "statement_timeout"}}, ""},

		{"Supabase direct", "postgresql://postgres:p@db.abcdefgh.supabase.co:5432/postgres", "postgres:p@db.abcdefgh.supabase.co:5432/postgres", Database{Product: "Supabase"}, ""},
		{"Supabase transaction pooler", "postgresql://postgres.abcdefgh:p@aws-0-eu-central-1.pooler.supabase.com:6543/postgres?pgbouncer=true",
			"postgres.abcdefgh:p@aws-0-eu-central-1.pooler.supabase.com:6543/postgres", Database{Product: "Supabase", Pooler: true, Ignored: []string{"pgbouncer"},
				Direct: "host db.abcdefgh.supabase.co, port 5432, user postgres (IPv6, or with the IPv4 add-on)"}, ""},
		{"Supabase session pooler", "postgresql://postgres.abcdefgh:p@aws-1-us-east-1.pooler.supabase.com:5432/postgres",
			"postgres.abcdefgh:p@aws-1-us-east-1.pooler.supabase.com:5432/postgres", Database{Product: "Supabase", Pooler: true,
				Direct: "host db.abcdefgh.supabase.co, port 5432, user postgres (IPv6, or with the IPv4 add-on)"}, ""},
		{"Supabase dedicated pooler", "postgresql://postgres:p@db.abcdefgh.supabase.co:6543/postgres", "postgres:p@db.abcdefgh.supabase.co:6543/postgres",
			Database{Product: "Supabase", Pooler: true, Direct: "port 5432"}, ""},
		{"Vercel's Supabase", "postgres://postgres.abcdefgh:p@aws-0-eu-central-1.pooler.supabase.com:6543/postgres?sslmode=require&supa=base-pooler.x",
			"postgres.abcdefgh:p@aws-0-eu-central-1.pooler.supabase.com:6543/postgres", Database{Product: "Supabase", Pooler: true, Ignored: []string{"supa"},
				Direct: "host db.abcdefgh.supabase.co, port 5432, user postgres (IPv6, or with the IPv4 add-on)"}, "any certificate"},
		{"Neon", "postgresql://u:p@ep-cool-1234.eu-central-1.aws.neon.tech/neondb?sslmode=require&channel_binding=require",
			"u:p@ep-cool-1234.eu-central-1.aws.neon.tech:5432/neondb", Database{Product: "Neon"}, "any certificate"},
		{"Neon pooler", "postgresql://u:p@ep-cool-1234-pooler.eu-central-1.aws.neon.tech/neondb?sslmode=require",
			"u:p@ep-cool-1234-pooler.eu-central-1.aws.neon.tech:5432/neondb", Database{Product: "Neon", Pooler: true, Direct: "host ep-cool-1234.eu-central-1.aws.neon.tech"}, "any certificate"},
		{"Neon endpoint option", "postgresql://u:p@ep-cool-1234.eu-central-1.aws.neon.tech/neondb?options=endpoint%3Dep-cool-1234&sslmode=require",
			"u:p@ep-cool-1234.eu-central-1.aws.neon.tech:5432/neondb", Database{Product: "Neon"}, "any certificate"},
		{"RDS", "postgres://u:p@shop.c1.eu-west-1.rds.amazonaws.com:5432/db?sslmode=verify-full&sslrootcert=system",
			"u:p@shop.c1.eu-west-1.rds.amazonaws.com:5432/db", Database{Product: "RDS"}, "verified"},
		{"RDS proxy", "postgres://u:p@shop.proxy-c1.eu-west-1.rds.amazonaws.com:5432/db", "u:p@shop.proxy-c1.eu-west-1.rds.amazonaws.com:5432/db",
			Database{Product: "RDS", Pooler: true, Direct: "the endpoint of the database instance (Aurora: the cluster's writer) instead of the proxy's"}, ""},
		{"Aurora", "postgres://u:p@shop.cluster-c1.eu-west-1.rds.amazonaws.com:5432/db", "u:p@shop.cluster-c1.eu-west-1.rds.amazonaws.com:5432/db", Database{Product: "Aurora"}, ""},
		{"Crunchy Bridge", "postgres://application:p@p.abc.db.postgresbridge.com:5432/postgres", "application:p@p.abc.db.postgresbridge.com:5432/postgres", Database{Product: "Crunchy Bridge"}, ""},
		{"PlanetScale", "postgresql://postgres.b1:pscale_pw_x@eu-1.pg.psdb.cloud:5432/postgres?sslmode=verify-full&sslrootcert=system&sslnegotiation=direct",
			"postgres.b1:pscale_pw_x@eu-1.pg.psdb.cloud:5432/postgres", Database{Product: "PlanetScale Postgres"}, "verified"},
		{"PlanetScale pooler", "postgresql://postgres.b1:p@x-useast1-1.horizon.psdb.cloud:6432/postgres?sslmode=verify-full",
			"postgres.b1:p@x-useast1-1.horizon.psdb.cloud:6432/postgres", Database{Product: "PlanetScale Postgres", Pooler: true, Direct: "port 5432"}, "verified"},
		{"Heroku", "postgres://abc:p0f@ec2-1-2-3-4.compute-1.amazonaws.com:5432/d4?sslmode=no-verify", "abc:p0f@ec2-1-2-3-4.compute-1.amazonaws.com:5432/d4", Database{}, "any certificate"},
		{"Fly", "postgres://u:p@shop-db.flycast:5432/shop?sslmode=disable", "u:p@shop-db.flycast:5432/shop", Database{Product: "Fly"}, "none"},
		{"Fly managed", "postgresql://u:p@pgbouncer.x1.flympg.net/fly-db", "u:p@pgbouncer.x1.flympg.net:5432/fly-db", Database{Product: "Fly Managed Postgres", Pooler: true, Direct: "host direct.x1.flympg.net"}, ""},
		{"DigitalOcean pool", "postgresql://u:p@x.db.ondigitalocean.com:25061/pool?sslmode=require", "u:p@x.db.ondigitalocean.com:25061/pool", Database{Pooler: true, Direct: "port 25060"}, "any certificate"},
		{"Cloud SQL", "postgresql://u:p@/db?host=/cloudsql/project:region:shop", "u:p@/cloudsql/project:region:shop:5432/db", Database{Product: "Cloud SQL"}, ""},
		{"Cloud SQL in the host", "postgresql://u:p@%2Fcloudsql%2Fproject%3Aregion%3Ashop/db", "u:p@/cloudsql/project:region:shop:5432/db", Database{Product: "Cloud SQL"}, ""},
		{"Azure user", "postgres://u%40server:p@server.postgres.database.azure.com:5432/db?sslmode=require", "u@server:p@server.postgres.database.azure.com:5432/db", Database{Product: "Azure"}, "any certificate"},
		{"Azure user as parameter", "postgres://server.postgres.database.azure.com:5432/db?user=u@server&password=p", "u@server:p@server.postgres.database.azure.com:5432/db", Database{Product: "Azure"}, ""},
		{"IPv6", "postgres://u:p@[2001:db8::1]:5433/db", "u:p@2001:db8::1:5433/db", Database{}, ""},
		{"several hosts", "postgres://u:p@h1:5432,h2:5433/db?target_session_attrs=read-write", "u:p@h1:5432/db", Database{}, ""},

		{"encoded password", "postgres://u:p%23%40%2F%25%3F%3A@h/db", "u:p#@/%?:@h:5432/db", Database{}, ""},
		{"unescaped @ and :", "postgres://u:p@ss:w@h/db", "u:p@ss:w@h:5432/db", Database{}, ""},
		{"other characters", "postgres://u:p$^&*()+=[]{}|<> !~@h/db", "u:p$^&*()+=[]{}|<> !~@h:5432/db", Database{}, ""},

		{"keywords", "host=h port=5433 dbname=db user=u password='p q' sslmode=disable", "u:p q@h:5433/db", Database{}, "none"},
		{"keywords with schema", "host=h dbname=db user=u password=a://b options='-c search_path=shop'", "u:a://b@h:5432/db", Database{Schema: "shop"}, ""},
		{"keywords of Cloud SQL", "host=/cloudsql/project:region:shop dbname=db user=u password=p", "u:p@/cloudsql/project:region:shop:5432/db", Database{Product: "Cloud SQL"}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d, err := ParseDatabase(test.raw)
			if err != nil {
				t.Fatal(err)
			}
			cfg, err := pgx.ParseConfig(d.URL)
			if err != nil {
				t.Fatalf("pgx: %v", err)
			}
			user, rest, _ := strings.Cut(test.want, ":")
			if cfg.User != user {
				t.Errorf("user is %q, not %q", cfg.User, user)
			}
			address := strings.TrimPrefix(rest, cfg.Password+"@")
			if address == rest {
				t.Errorf("password is %q", cfg.Password)
			}
			if got := strings.TrimPrefix(d.String(), "postgres://"+user+":***@"); got != address {
				t.Errorf("address is %q, not %q", got, address)
			}
			for name := range cfg.RuntimeParams {
				if name != "options" && name != "search_path" {
					t.Errorf("the server would be sent %s", name)
				}
			}
			if got := tlsOf(cfg); got != test.tls {
				t.Errorf("TLS is %q, not %q", got, test.tls)
			}
			want := test.more
			want.Dialect, want.URL, want.Host, want.Port, want.User, want.Name = "postgres", d.URL, cfg.Host, cfg.Port, cfg.User, cfg.Database
			if diff := cmp.Diff(want, d); diff != "" {
				t.Error(diff)
			}
			if again, err := ParseDatabase(d.URL); err != nil || again.URL != d.URL {
				t.Errorf("a cleaned string changes when it is read again: %v", err)
			}
		})
	}
}

func tlsOf(cfg *pgx.ConnConfig) string {
	switch {
	case len(cfg.Fallbacks) > 0 && cfg.Fallbacks[0].Host == cfg.Host || strings.HasPrefix(cfg.Host, "/"):
		return ""
	case cfg.TLSConfig == nil:
		return "none"
	case cfg.TLSConfig.InsecureSkipVerify:
		return "any certificate"
	default:
		return "verified"
	}
}

func TestParseDatabaseProblems(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "ca.pem")
	tests := []struct{ name, raw, want, hint string }{
		{"nothing", " ", "is empty", "postgres://USER:PASSWORD@HOST:5432/DATABASE"},
		{"number sign", "postgres://u:ge#heim@h/db", `unescaped "#"`, "write it as %23"},
		{"number sign after digits", "postgres://u:12#heim@h/db", `unescaped "#"`, "%23"},
		{"number sign and at", "postgres://u:ge@h#eim@h/db", `unescaped "#"`, "%23"},
		{"slash", "postgres://u:ge/heim@h/db", `unescaped "/"`, "%2F"},
		{"slash after digits", "postgres://u:12/heim@h/db", `unescaped "/"`, "%2F"},
		{"slash and at", "postgres://u:g@e/heim@h/db", `unescaped "/"`, "%2F"},
		{"question mark", "postgres://u:ge?heim@h/db?sslmode=require", `unescaped "?"`, "%3F"},
		{"question mark after digits", "postgres://u:12?heim@h/db", `unescaped "?"`, "%3F"},
		{"percent", "postgres://u:ge%heim@h/db", `unescaped "%"`, "%25"},
		{"percent in what may be a port", "postgres://u:ge%heim/db", `unescaped "%"`, "%25"},
		{"password without host", "postgres://u:geheim/db", "invalid port", ""},
		{"Supabase's placeholder", "postgresql://postgres:[YOUR-PASSWORD]@db.abc.supabase.co:5432/postgres", "still [YOUR-PASSWORD]", "put the database's password in its place"},
		{"MySQL", "mysql://u:geheim@h/db", "mysql:// is not supported in this version", ""},
		{"PlanetScale MySQL", "mysql://u:geheim@aws.connect.psdb.cloud/db?sslaccept=strict", "mysql:// is not supported", ""},
		{"SQLAlchemy MySQL", "mysql+aiomysql://u:geheim@h/db", "mysql:// is not supported", ""},
		{"MariaDB", "mariadb://u:geheim@h/db", "mariadb:// is not supported", ""},
		{"Vitess", "vitess://u:geheim@h/db", "vitess:// is not supported", ""},
		{"JDBC MySQL", "jdbc:mysql://h/db?password=geheim", "mysql:// is not supported", ""},
		{"Prisma Accelerate", "prisma://accelerate.prisma-data.net/?api_key=geheim", "Prisma's client only", "DIRECT_URL"},
		{"Prisma dev", "prisma+postgres://localhost:51213/?api_key=geheim", "Prisma's client only", "DIRECT_URL"},
		{"SQLite", "sqlite:///app.db", "not a PostgreSQL connection string", "postgres://"},
		{"file", "file:./dev.db", "not a PostgreSQL connection string", "postgres://"},
		{"variable's name", "DATABASE_URL=postgres://u:geheim@h/db", "not a PostgreSQL connection string", "postgres://"},
		{".NET", "Host=h;Username=u;Password=geheim", "not a PostgreSQL connection string", "postgres://"},
		{"no scheme", "u:geheim@h/db", "not a PostgreSQL connection string", "postgres://"},
		{"keywords, spaces", "host=h password=ge heim dbname=db", "cannot be read", "single quotes"},
		{"keywords, quote", "host=h password='geheim", "cannot be read", "single quotes"},
		{"TLS mode", "postgres://u:geheim@h/db?sslmode=often", "sslmode", ""},
		{"TLS parameter", "postgres://u:geheim@h/db?sslmod=require", "sslmod is unknown", "did you mean sslmode?"},
		{"port", "postgres://u:geheim@h:54x/db", "invalid port", ""},
		{"CA file", "postgres://u:geheim@h/db?sslmode=verify-full&sslrootcert=" + missing, "unable to read CA file: open " + missing, ""},
		{"Prisma's CA file", "postgres://u:geheim@h/db?sslcert=" + missing, "unable to read CA file: open " + missing, ""},
		{"parameters", "postgres://u:geheim@h/db?a=%zz", "parameters after ? cannot be read", "%25"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d, err := ParseDatabase(test.raw)
			var f *loops.Fault
			if !errors.As(err, &f) {
				t.Fatalf("got %v, %v", d, err)
			}
			if !strings.Contains(f.Err.Error(), test.want) || !strings.Contains(f.Hint, test.hint) {
				t.Errorf("got: %v", err)
			}
			for _, part := range []string{"geheim", "heim"} {
				if strings.Contains(err.Error(), part) {
					t.Errorf("the password is in: %v", err)
				}
			}
			if d.URL != "" {
				t.Error("a refused string is handed on")
			}
		})
	}
}

func TestParseDatabaseReadsTheAuthority(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, []byte(authority), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, raw := range []string{"postgres://u@h/db?sslmode=require&sslrootcert=" + path, "postgres://u@h/db?sslmode=require&sslcert=" + path} {
		d, err := ParseDatabase(raw)
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := pgx.ParseConfig(d.URL)
		if err != nil {
			t.Fatal(err)
		}
		if cfg.TLSConfig == nil || cfg.TLSConfig.RootCAs == nil {
			t.Errorf("%s: no authority", raw)
		}
	}
}

// authority is a self-signed certificate; nobody has its key.
const authority = `-----BEGIN CERTIFICATE-----
MIIBhjCCAS2gAwIBAgIUUTzsCYY/+jxeO+UGqHfbSrfy270wCgYIKoZIzj0EAwIw
GDEWMBQGA1UEAwwNdGllcmdhdGUtdGVzdDAgFw0yNjExMjIxNDU1MjlaGA8yMTI2
MTAyOTE0NTUyOVowGDEWMBQGA1UEAwwNdGllcmdhdGUtdGVzdDBZMBMGByqGSM49
AgEGCCqGSM49AwEHA0IABAfrnmaOVO8OK/kdzrIFlPFuy6TH7MOHLqaZ/ZXtMn/N
VO/5uT2/ZU/hQnkgU/4gMHupwGuwUpiPWosNlxk+MSmjUzBRMB0GA1UdDgQWBBR2
53OAo6Qt22CjR7xBJzZjMdZxazAfBgNVHSMEGDAWgBR253OAo6Qt22CjR7xBJzZj
MdZxazAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0cAMEQCIDyNSAvP1gbi
A+VswdcJeiBcTXnIBujuW/fUcf2icHA+AiBsIRg9vaH2qfRhITfnV2eLywTv3Zdq
Z4CO/jOIQ/lSQQ==
-----END CERTIFICATE-----
`
