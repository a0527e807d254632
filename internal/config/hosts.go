package config

import (
	"fmt"
	"strings"
)

// recognise finds out who hosts the database, and whether the address is that of a pooler.
func (d *Database) recognise() {
	host := strings.ToLower(d.Host)
	for _, known := range []struct{ part, product string }{
		{".supabase.co", "Supabase"}, {".pooler.supabase.com", "Supabase"}, {".neon.tech", "Neon"}, {".neon.build", "Neon"},
		{".rds.amazonaws.com", "RDS"}, {".psdb.cloud", "PlanetScale Postgres"}, {".flycast", "Fly"}, {".fly.dev", "Fly"},
		{".flympg.net", "Fly Managed Postgres"}, {".postgres.database.azure.com", "Azure"}, {".postgresbridge.com", "Crunchy Bridge"},
		{"db.prisma.io", "Prisma Postgres"},
	} {
		if strings.HasSuffix(host, known.part) || strings.HasSuffix(host, known.part+".cn") {
			d.Product = known.product
		}
	}
	if _, rest, _ := strings.Cut(host, "."); d.Product == "RDS" && strings.HasPrefix(rest, "cluster-") {
		d.Product = "Aurora"
	}
	if strings.HasPrefix(host, "/cloudsql/") {
		d.Product = "Cloud SQL"
	}
	if direct := d.direct(host); direct != "" {
		d.Pooler, d.Direct = true, direct
	} else if d.Pooler {
		d.Direct = "the address of the database itself, without the pooler"
	}
}

// direct returns the direct connection behind a pooler's address; empty: it is none.
func (d *Database) direct(host string) string {
	first, rest, _ := strings.Cut(host, ".")
	switch {
	case strings.HasSuffix(host, ".pooler.supabase.com"):
		ref := "PROJECT"
		if _, project, ok := strings.Cut(d.User, "."); ok {
			ref = project
		}
		return fmt.Sprintf("host db.%s.supabase.co, port 5432, user postgres (IPv6, or with the IPv4 add-on)", ref)
	case strings.HasSuffix(first, "-pooler") && d.Product == "Neon":
		return fmt.Sprintf("host %s.%s", strings.TrimSuffix(first, "-pooler"), rest)
	case d.Product == "RDS" && strings.HasPrefix(rest, "proxy-"):
		return "the endpoint of the database instance (Aurora: the cluster's writer) instead of the proxy's"
	case d.Product == "Fly Managed Postgres" && first == "pgbouncer":
		return "host direct." + rest
	case host == "pooled.db.prisma.io":
		return "host db.prisma.io"
	case strings.HasSuffix(host, ".db.ondigitalocean.com") && d.Port == 25061:
		return "port 25060"
	case d.Port == 6432 || d.Port == 6543: // PgBouncer's and Supavisor's usual ports, whoever the host is
		return "port 5432"
	default:
		return ""
	}
}
