package main

import (
	"cmp"
	"fmt"

	"github.com/tiergate/tiergate/internal/config"
	"github.com/tiergate/tiergate/internal/sql"
)

// host is what differs where the server is somebody else's. docs/hosts.md says it at length.
type host struct {
	name      string // empty: nobody's that is known
	logical   string // how to get logical WAL
	replicate string // the statement that lets role %s replicate
	parameter string // how to set parameter %s to %s
	reload    string // what makes it hold, where that takes no restart
	restart   string // and where it does
	slots     string // what happens to slots there; empty: nothing special
}

// hostOf tells by the catalog, else by the address, whose server it is.
func hostOf(v sql.Server, s config.Settings) host {
	const alter = "ALTER ROLE %s REPLICATION;"
	h := host{name: cmp.Or(v.Host, s.Database.Product), replicate: alter + " -- as postgres", restart: "; then restart the server"}
	switch h.name {
	case "RDS":
		h.logical = "set rds.logical_replication = 1 in the instance's parameter group (one of your own), then reboot it"
		h.replicate, h.parameter = "GRANT rds_replication TO %s;", "set %s = %s in the instance's parameter group"
	case "Aurora":
		h.logical = "set rds.logical_replication = 1 in the cluster's parameter group (one of your own), then reboot the writer"
		h.replicate, h.parameter = "GRANT rds_replication TO %s;", "set %s = %s in the cluster's parameter group"
	case "Cloud SQL":
		h.logical = "gcloud sql instances patch INSTANCE --database-flags=cloudsql.logical_decoding=on (name your other flags too: they are replaced); it restarts"
		h.parameter = "gcloud sql instances patch INSTANCE --database-flags=%s=%s (name your other flags too: they are replaced)"
	case "Azure":
		h.replicate = alter + " -- as the server's administrator"
		h.parameter = "az postgres flexible-server parameter set --resource-group GROUP --server-name SERVER --name %s --value %s"
	case "Supabase":
		h.logical = "Supabase has logical WAL: does DIRECT_URL name the database itself?"
		h.parameter = "supabase --experimental --project-ref PROJECT postgres-config update --config %s=%s"
	case "Neon":
		h.logical = "enable logical replication in the project's settings; this cannot be undone, and a slot keeps the compute awake"
		h.replicate, h.parameter = alter+" -- as a role made in the console, which may replicate itself", "ask Neon's support for %s = %s"
		h.slots = "one that is read keeps the compute awake, and one that nobody reads for some 40 hours is dropped: then usage is counted again"
	case "PlanetScale Postgres":
		h.replicate, h.parameter = alter+" -- as the default role", "set %s to %s under Clusters, Parameters"
		h.slots = "a failover may lose it: then usage is counted again"
	case "Fly Managed Postgres":
		h.replicate, h.parameter = alter+" -- if you may; else ask Fly's support", "ask Fly's support for %s = %s"
	case "Crunchy Bridge":
		h.parameter = "set %s to %s in the cluster's configuration parameters"
	case "Fly":
		h.logical = "fly postgres config update --wal-level logical, then fly postgres restart"
		fallthrough
	default:
		if h.name == "" {
			h.replicate = alter + " -- as a superuser"
		}
		h.parameter, h.reload = "ALTER SYSTEM SET %s = '%s'", "; SELECT pg_reload_conf();"
	}
	h.logical = cmp.Or(h.logical, fmt.Sprintf(h.parameter, "wal_level", "logical")+h.restart)
	return h
}

// set says how to set a parameter that may change while the server runs.
func (h host) set(name, value string) string { return fmt.Sprintf(h.parameter, name, value) + h.reload }

// setAndRestart says how to set a parameter that may not.
func (h host) setAndRestart(name string, value int) string {
	return fmt.Sprintf(h.parameter, name, fmt.Sprint(value)) + h.restart
}
