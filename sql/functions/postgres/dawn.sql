-- Internal. tiergate.dawn(day, zone) → timestamptz: the first moment of a day. A change of the clock may
-- skip midnight or repeat it, and a whole day: that one begins with the next.
CREATE OR REPLACE FUNCTION tiergate.dawn(day timestamp, zone text) RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT min(t.midnight)
    FROM unnest(ARRAY[day - interval '12 hours', day + interval '12 hours']) noon,
         LATERAL (SELECT noon AT TIME ZONE zone AS at) near,
         LATERAL (SELECT (day - ((near.at AT TIME ZONE zone) - (near.at AT TIME ZONE 'UTC'))) AT TIME ZONE 'UTC' AS midnight) t
    WHERE t.midnight AT TIME ZONE zone >= day
$$;
