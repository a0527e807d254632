-- Internal. tiergate.current_window(subject, feature, tier, used, usage_limit, period_start, resets_at) → used, period_start,
-- resets_at: what a row of feature_access says by now, where nobody has written it since. A window that is over
-- is empty, and a rolling one has what has not rolled off. A renewal that nobody has seen is taken for granted for the time of grace.
CREATE OR REPLACE FUNCTION tiergate.current_window(subject text, feature text, tier text, INOUT used bigint, usage_limit bigint,
    INOUT period_start timestamptz, INOUT resets_at timestamptz)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    now constant timestamptz := tiergate.now();
    plan record;
BEGIN
    IF resets_at IS NULL OR resets_at > now THEN
        RETURN;
    END IF;
    SELECT p.window_kind, p.grace INTO plan FROM tiergate.plan p
    WHERE p.feature = current_window.feature ORDER BY p.tier = current_window.tier DESC LIMIT 1;
    IF plan.window_kind = 'billing' AND resets_at + plan.grace <= now
            AND EXISTS (SELECT FROM tiergate.subject s WHERE s.subject_id = subject AND s.billing_end > s.billing_start) THEN
        RETURN;
    END IF;
    used := 0; period_start := NULL; resets_at := NULL;
    IF plan.window_kind = 'rolling' THEN
        SELECT coalesce(r.used, 0), r.period_start, r.resets_at INTO used, period_start, resets_at
        FROM tiergate.rolling_state(subject, feature, usage_limit, now) r;
    END IF;
END
$$;
