package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

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

// connections is how many the sidecar opens at most: one of them for as long as a new loop is counted.
const connections = 6

// What a slot should be allowed, below which check warns: an hour or so of a busy application's WAL, and a
// weekend without a sidecar.
const (
	littleWAL  = 1 << 30
	littleIdle = 48 * time.Hour
)

// server looks at what holds for the server as a whole.
func (k *checkup) server(v sql.Server, s config.Settings) {
	switch {
	case v.Version < oldestServer:
		k.fail("version", "upgrade the server to PostgreSQL 15 or newer", "PostgreSQL %s is too old", v.VersionText)
	case v.Version < supportedServer:
		k.warn("version", "upgrade the server to PostgreSQL 15 or newer", "PostgreSQL %s is not supported, though it may work", v.VersionText)
	default:
		k.ok("version", "PostgreSQL %s%s", v.VersionText, hosted(hostOf(v, s)))
	}
	if v.InRecovery {
		k.fail("server", "let DATABASE_URL or DIRECT_URL name the primary", "it is a standby, which can neither be written to nor be followed")
	}
	h := hostOf(v, s)
	if v.WALLevel != "logical" {
		k.fail("wal_level", h.logical+"\nor follow without a change stream: sidecar run --poll 30s", "%s: without logical there is no change stream", v.WALLevel)
	} else {
		k.ok("wal_level", "logical")
	}
	if v.ConnectionsFree < connections {
		k.fail("connections", h.setAndRestart("max_connections", v.ConnectionsMax+20)+", or make the application's pool smaller",
			"%d are free, the sidecar opens up to %d", max(0, v.ConnectionsFree), connections)
	}
}

func hosted(h host) string {
	if h.name == "" {
		return ""
	}
	return " on " + h.name
}

// replication looks at what the change stream needs, up to opening a connection for it.
func (k *checkup) replication(ctx context.Context, v sql.Server, slot sql.SlotState, s config.Settings) {
	k.group = "Replication"
	h := hostOf(v, s)
	if !v.MayReplicate {
		k.fail("right to replicate", fmt.Sprintf(h.replicate, sql.Quote(v.User)), "%s has none", v.User)
	} else if err := cdc.NewPostgres(cdc.Config{URL: s.Database.URL, Name: string(sql.ForStream)}).Probe(ctx); err != nil {
		k.faults("connection", err)
	} else {
		k.ok("connection", "a replication connection opens")
	}
	if !slot.Exists && v.SlotsUsed >= v.SlotsMax {
		k.fail("slots", h.setAndRestart("max_replication_slots", v.SlotsMax+5), "all %d are taken", v.SlotsMax)
	}
	if !slot.Active && v.SendersUsed >= v.SendersMax {
		k.fail("WAL senders", h.setAndRestart("max_wal_senders", v.SendersMax+5), "all %d are taken", v.SendersMax)
	}
	k.slot(slot, s)
	if h.slots != "" {
		k.warn("slot", "sidecar run --poll 10m needs none", "on %s, %s", h.name, h.slots)
	}
	k.retention(v, h, s)
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

// retention says who keeps a slot from filling the disk, and what ends one too early.
func (k *checkup) retention(v sql.Server, h host, s config.Settings) {
	enough := h.set("max_slot_wal_keep_size", fmt.Sprintf("%dMB", s.MaxRetainedWAL>>20))
	switch limit := v.RetainedWALLimit; {
	case limit < 0:
		k.warn("max_slot_wal_keep_size", enough,
			"no limit: a running sidecar gives its slot up at %s (max_retained_wal), a stopped one cannot", size(s.MaxRetainedWAL))
	case limit < min(littleWAL, s.MaxRetainedWAL):
		k.warn("max_slot_wal_keep_size", enough, "%s is little: a long transaction or a short stop writes more, and then the slot is lost and usage counted again", size(limit))
	case limit < s.MaxRetainedWAL:
		k.ok("max_slot_wal_keep_size", "%s: after more than that the slot is lost and usage is counted again (max_retained_wal, %s, is never reached)", size(limit), size(s.MaxRetainedWAL))
	default:
		k.ok("max_slot_wal_keep_size", "%s", size(limit))
	}
	if v.SlotIdleLimit > 0 && v.SlotIdleLimit < littleIdle {
		k.warn("idle_replication_slot_timeout", h.set("idle_replication_slot_timeout", "0"),
			"%s: a sidecar that is stopped for longer has lost its slot, and counts usage again", v.SlotIdleLimit)
	}
}

// size prints bytes with PostgreSQL's units.
func size(n int64) string {
	if n >= 10<<30 {
		return fmt.Sprintf("%d GB", n>>30)
	}
	return fmt.Sprintf("%d MB", n>>20)
}
