-- Internal. tiergate.rolling_state(subject, feature, usage_limit, at) → used, period_start, resets_at: what the buckets
-- of a rolling window say at a moment; all NULL where none is left. resets_at is when the next use fits again, else
-- when the oldest bucket rolls off.
CREATE OR REPLACE FUNCTION tiergate.rolling_state(subject text, feature text, usage_limit bigint, at timestamptz,
    OUT used bigint, OUT period_start timestamptz, OUT resets_at timestamptz)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN sum(b.used) < 9223372036854775807 THEN sum(b.used) WHEN count(*) > 0 THEN 9223372036854775807 END::bigint,
           min(b.start),
           CASE WHEN sum(b.used) >= rolling_state.usage_limit OR rolling_state.usage_limit = 0
                THEN coalesce(min(b.rolls_off) FILTER (WHERE b.after < rolling_state.usage_limit), max(b.rolls_off))
                ELSE min(b.rolls_off) END
    FROM (SELECT w.start, w.rolls_off, w.used, sum(w.used) OVER () - sum(w.used) OVER (ORDER BY w.start) AS after
          FROM tiergate.bucket w
          WHERE w.subject_id = subject AND w.feature = rolling_state.feature AND w.rolls_off > rolling_state.at) b
$$;
