-- Internal. tiergate.window_bounds(kind, unit, length, zone, billing_start, billing_end, at, floor) →
-- period_start, resets_at: the window that a use at this moment opens, half-open. No bounds for lifetime and rolling.
-- Columns of tiergate.plan and tiergate.subject; floor is the end of the last window, NULL where there was none.
-- Months are counted in UTC and the day is clamped, as internal/loops/window.go does it.
CREATE OR REPLACE FUNCTION tiergate.window_bounds(kind text, unit text, length interval, zone text,
    billing_start timestamptz, billing_end timestamptz, at timestamptz, floor timestamptz,
    OUT period_start timestamptz, OUT resets_at timestamptz)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
DECLARE
    billed constant boolean := kind = 'billing' AND coalesce(billing_end > billing_start, false);
    here   timestamp;  -- the use, on the zone's clock
    months int;        -- of a billing period; NULL: it has a fixed length
    k      bigint;     -- how many billing periods after the known one
BEGIN
    IF billed THEN
        SELECT n INTO months FROM unnest(ARRAY[1, 2, 3, 6, 12, 24, 36]) n
        WHERE billing_start + make_interval(months => n) = billing_end;
        IF FOUND THEN
            -- Every period counts from the known start, so that the 31st comes back.
            k := floor(((extract(year FROM at) - extract(year FROM billing_start)) * 12
                + extract(month FROM at) - extract(month FROM billing_start)) / months);
            IF billing_start + make_interval(months => (k * months)::int) > at THEN
                k := k - 1;
            END IF;
            period_start := billing_start + make_interval(months => (k * months)::int);
            resets_at := billing_start + make_interval(months => ((k + 1) * months)::int);
        ELSE
            k := floor(extract(epoch FROM at - billing_start) / extract(epoch FROM billing_end - billing_start));
            period_start := billing_start + k * (billing_end - billing_start);
            resets_at := period_start + (billing_end - billing_start);
        END IF;
        period_start := greatest(period_start, floor);
    ELSIF kind IN ('anchored', 'billing') THEN
        period_start := greatest(date_trunc('minute', at) - interval '1 minute', floor);
        resets_at := period_start + coalesce(length, interval '1 month');
    ELSIF kind = 'calendar' THEN
        here := at AT TIME ZONE zone;
        IF unit = 'hour' THEN -- absolute, so that the hour a clock change repeats is two windows
            period_start := at - (here - date_trunc('hour', here));
            resets_at := period_start + interval '1 hour';
        ELSE
            here := date_trunc(unit, here);
            period_start := tiergate.dawn(here, zone);
            resets_at := tiergate.dawn(here + ('1 ' || unit)::interval, zone);
        END IF;
        period_start := greatest(period_start, floor);
    END IF;
END
$$;
