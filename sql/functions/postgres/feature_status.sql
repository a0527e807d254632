-- tiergate.feature_status(subject) → one row for each feature: what a usage page shows.
-- used counts uses in the open window, remaining and usage_limit are NULL where unlimited, a window
-- that is over reads as empty, a rolling one as what has not rolled off. Never an error. Cost: one index range.
CREATE OR REPLACE FUNCTION tiergate.feature_status(subject text)
RETURNS TABLE (feature text, allowed boolean, tier text, used bigint, usage_limit bigint, remaining bigint,
               period_start timestamptz, resets_at timestamptz, reason text, message text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.feature,
           r.allowed OR o.reopened,
           r.tier,
           w.used,
           r.usage_limit,
           CASE WHEN r.usage_limit IS NOT NULL THEN greatest(0, least(r.usage_limit::numeric - w.used, 9223372036854775807))::bigint END,
           w.period_start,
           w.resets_at,
           CASE WHEN NOT o.reopened THEN r.reason END,
           CASE WHEN NOT o.reopened THEN r.message END
    FROM (
        SELECT DISTINCT ON (fa.feature) fa.*
        FROM @app@.feature_access fa
        WHERE fa.subject_id IN (feature_status.subject, '*')
        ORDER BY fa.feature, fa.subject_id = '*'
    ) r
    CROSS JOIN LATERAL tiergate.current_window(r.subject_id, r.feature, r.tier, r.used, r.usage_limit, r.period_start, r.resets_at) w
    CROSS JOIN LATERAL (SELECT coalesce(r.reason = 'limit_reached' AND w.used < r.usage_limit, false) AS reopened) o
$$;

CREATE OR REPLACE FUNCTION tiergate.feature_status(subject uuid)
RETURNS TABLE (feature text, allowed boolean, tier text, used bigint, usage_limit bigint, remaining bigint,
               period_start timestamptz, resets_at timestamptz, reason text, message text)
LANGUAGE sql STABLE AS $$ SELECT * FROM tiergate.feature_status(subject::text) $$;

CREATE OR REPLACE FUNCTION tiergate.feature_status(subject bigint)
RETURNS TABLE (feature text, allowed boolean, tier text, used bigint, usage_limit bigint, remaining bigint,
               period_start timestamptz, resets_at timestamptz, reason text, message text)
LANGUAGE sql STABLE AS $$ SELECT * FROM tiergate.feature_status(subject::text) $$;
