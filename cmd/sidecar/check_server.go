package main

import (
	"cmp"
	"context"
	"fmt"

	"github.com/tiergate/tiergate/internal/cdc"
	"github.com/tiergate/tiergate/internal/config"
	"github.com/tiergate/tiergate/internal/sql"
)

// The versions of PostgreSQL, as server_version_num: the oldest that can work, and the oldest that is
// tested.
const (
	oldestServer    = 140000
	supportedServer = 150000
)

// connections is how many the sidecar opens at most.
const connections = 5

// server looks at what holds for the server as a whole.
func (k *checkup) server(v sql.Server, s config.Settings) {
	switch {
	case v.Version < oldestServer:
		k.fail("version", "upgrade the server to PostgreSQL 15 or newer", "PostgreSQL %s is too old", v.VersionText)
	case v.Version < supportedServer:
		k.warn("version", "upgrade the server to PostgreSQL 15 or newer", "PostgreSQL %s is not supported, though it may work", v.VersionText)
	default:
		k.ok("version", "PostgreSQL %s%s", v.VersionText, hosted(v, s))
	}
	if v.InRecovery {
		k.fail("server", "let DATABASE_URL or DIRECT_URL name the primary", "it is a standby, which can neither be written to nor be followed")
	}
	host := cmp.Or(v.Host, s.Database.Product)
	switch {
	case v.WALLevel != "logical":
		k.fail("wal_level", walFix(host)+"\nor follow without a change stream: sidecar run --poll 30s", "%s: without logical there is no change stream", v.WALLevel)
	case host == "Neon":
		k.warn("wal_level", "sidecar run --poll 10m lets it sleep", "logical; on Neon a replication slot keeps the compute awake")
	default:
		k.ok("wal_level", "logical")
	}
	if v.ConnectionsFree < connections {
		k.fail("connections", "ALTER SYSTEM SET max_connections = …; then restart the server, or make the application's pool smaller",
			"%d are free, the sidecar opens up to %d", max(0, v.ConnectionsFree), connections)
	}
}

func hosted(v sql.Server, s config.Settings) string {
	if host := cmp.Or(v.Host, s.Database.Product); host != "" {
		return " on " + host
	}
	return ""
}

// walFix is how to get logical WAL, which every host does differently.
func walFix(host string) string {
	switch host {
	case "RDS":
		return "set rds.logical_replication = 1 in the instance's parameter group (Aurora: the cluster's), then reboot it"
	case "Cloud SQL":
		return "set the flag: gcloud sql instances patch INSTANCE --database-flags=cloudsql.logical_decoding=on (name your other flags too: they are replaced); it restarts"
	case "Azure":
		return "az postgres flexible-server parameter set --name wal_level --value logical, then restart the server"
	case "Neon":
		return "enable logical replication in the project's settings; this cannot be undone, and a slot keeps the compute awake"
	case "Supabase":
		return "Supabase has logical WAL: does DIRECT_URL name the database itself?"
	case "PlanetScale Postgres":
		return "set wal_level to logical in the cluster's parameters"
	case "Fly":
		return "fly postgres config update --wal-level logical, then fly postgres restart"
	default:
		return "ALTER SYSTEM SET wal_level = 'logical'; then restart the server"
	}
}

// replication looks at what the change stream needs, up to opening a connection for it.
func (k *checkup) replication(ctx context.Context, v sql.Server, slot sql.SlotState, s config.Settings) {
	k.group = "Replication"
	if !v.MayReplicate {
		fix := fmt.Sprintf("ALTER ROLE %s REPLICATION;", sql.Quote(v.User))
		if v.Host == "RDS" {
			fix = fmt.Sprintf("GRANT rds_replication TO %s;", sql.Quote(v.User))
		}
		k.fail("right to replicate", fix, "%s has none", v.User)
	} else if err := cdc.NewPostgres(cdc.Config{URL: s.Database.URL, Name: string(sql.ForStream)}).Probe(ctx); err != nil {
		k.faults("connection", err)
	} else {
		k.ok("connection", "a replication connection opens")
	}
	if !slot.Exists && v.SlotsUsed >= v.SlotsMax {
		k.fail("slots", fmt.Sprintf("ALTER SYSTEM SET max_replication_slots = %d; then restart the server", v.SlotsMax+5), "all %d are taken", v.SlotsMax)
	}
	if !slot.Active && v.SendersUsed >= v.SendersMax {
		k.fail("WAL senders", fmt.Sprintf("ALTER SYSTEM SET max_wal_senders = %d; then restart the server", v.SendersMax+5), "all %d are taken", v.SendersMax)
	}
	k.slot(slot, s)
	k.retention(v, s)
}

func (k *checkup) slot(slot sql.SlotState, s config.Settings) {
	switch {
	case !slot.Exists:
		k.ok("slot", "%s is made by the first run", slot.Name)
	case slot.Plugin != "pgoutput" || slot.Database != slot.ThisDatabase:
		k.fail("slot", "if nobody uses that slot: SELECT pg_drop_replication_slot('"+slot.Name+"');",
			"%s belongs to database %s and plugin %s", slot.Name, cmp.Or(slot.Database, "none"), cmp.Or(slot.Plugin, "none"))
	case slot.Lost:
		k.warn("slot", "nothing to do: the next run makes a new one and counts again", "%s is lost: the server has removed WAL that it needed", slot.Name)
	case slot.RetainedBytes > s.MaxRetainedWAL/2:
		k.warn("slot", "sidecar run; or give it up: SELECT pg_drop_replication_slot('"+slot.Name+"');",
			"the server keeps %s of WAL for it; a running sidecar gives it up at %s", size(slot.RetainedBytes), size(s.MaxRetainedWAL))
	default:
		k.ok("slot", "%s, the server keeps %s of WAL for it", slot.Name, size(slot.RetainedBytes))
	}
}

// retention says who keeps a slot from filling the disk.
func (k *checkup) retention(v sql.Server, s config.Settings) {
	switch limit := v.RetainedWALLimit; {
	case limit < 0:
		k.warn("max_slot_wal_keep_size", fmt.Sprintf("ALTER SYSTEM SET max_slot_wal_keep_size = '%dMB'; SELECT pg_reload_conf();", s.MaxRetainedWAL>>20),
			"no limit: a running sidecar gives its slot up at %s (max_retained_wal), a stopped one cannot", size(s.MaxRetainedWAL))
	case limit < s.MaxRetainedWAL:
		k.ok("max_slot_wal_keep_size", "%s: after more than that the slot is lost and usage is counted again (max_retained_wal, %s, is never reached)", size(limit), size(s.MaxRetainedWAL))
	default:
		k.ok("max_slot_wal_keep_size", "%s", size(limit))
	}
}

// size prints bytes with PostgreSQL's units.
func size(n int64) string {
	if n >= 10<<30 {
		return fmt.Sprintf("%d GB", n>>30)
	}
	return fmt.Sprintf("%d MB", n>>20)
}
