-- tiergate.freshness() → how far behind the flags are: the position they stand at, the commit time of
-- the newest change in them, and the lag. The lag is zero while the sidecar follows an idle stream.
-- Never an error. Cost: a few rows.
CREATE OR REPLACE FUNCTION tiergate.freshness(OUT "position" text, OUT source_time timestamptz, OUT lag interval)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.position, c.source_time,
           CASE WHEN s.active AND pg_wal_lsn_diff(pg_current_wal_flush_lsn(), s.confirmed_flush_lsn) < 65536
                THEN interval '0'
                ELSE greatest(interval '0', clock_timestamp() - greatest(c.source_time, c.applied_at)) END
    FROM tiergate.checkpoint c
    LEFT JOIN pg_replication_slots s ON s.slot_name = nullif(c.position, '')::jsonb ->> 'slot'
$$;
