-- Internal. tiergate.record_event(…): one row of access_event, which becomes an email when the stream brings it back.
CREATE OR REPLACE FUNCTION tiergate.record_event(kind text, subject text, feature text, loop text, tier text, used bigint,
    usage_limit bigint, episode bigint, at timestamptz, threshold double precision DEFAULT NULL, over_run bigint DEFAULT 0,
    silent boolean DEFAULT false) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO tiergate.access_event (at, recorded_at, kind, subject_id, feature, loop, tier, used, usage_limit, episode,
        threshold, position, silent, over_run)
    VALUES (record_event.at, tiergate.now(), record_event.kind, subject, record_event.feature, record_event.loop, record_event.tier,
        record_event.used, record_event.usage_limit, record_event.episode, record_event.threshold, '', record_event.silent,
        record_event.over_run)
$$;
