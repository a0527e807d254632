-- tiergate.feature_status(subject) → one row for each feature: what a usage page shows.
-- used counts uses in the open window, remaining and usage_limit are NULL where unlimited, a window
-- that is over reads as empty. Never an error. Cost: one index range.
CREATE OR REPLACE FUNCTION tiergate.feature_status(subject text)
RETURNS TABLE (feature text, allowed boolean, tier text, used bigint, usage_limit bigint, remaining bigint,
               period_start timestamptz, resets_at timestamptz, reason text, message text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.feature,
           r.allowed OR (r.closed AND r.reason = 'limit_reached'),
           r.tier,
           CASE WHEN r.closed THEN 0 ELSE r.used END,
           r.usage_limit,
           CASE WHEN r.closed THEN r.usage_limit ELSE r.remaining END,
           CASE WHEN r.closed THEN NULL ELSE r.period_start END,
           CASE WHEN r.closed THEN NULL ELSE r.resets_at END,
           CASE WHEN r.closed AND r.reason = 'limit_reached' THEN NULL ELSE r.reason END,
           CASE WHEN r.closed AND r.reason = 'limit_reached' THEN NULL ELSE r.message END
    FROM (
        SELECT DISTINCT ON (fa.feature) fa.*, coalesce(fa.resets_at <= tiergate.now(), false) AS closed
        FROM @app@.feature_access fa
        WHERE fa.subject_id IN (feature_status.subject, '*')
        ORDER BY fa.feature, fa.subject_id = '*'
    ) r
$$;

CREATE OR REPLACE FUNCTION tiergate.feature_status(subject uuid)
RETURNS TABLE (feature text, allowed boolean, tier text, used bigint, usage_limit bigint, remaining bigint,
               period_start timestamptz, resets_at timestamptz, reason text, message text)
LANGUAGE sql STABLE AS $$ SELECT * FROM tiergate.feature_status(subject::text) $$;

CREATE OR REPLACE FUNCTION tiergate.feature_status(subject bigint)
RETURNS TABLE (feature text, allowed boolean, tier text, used bigint, usage_limit bigint, remaining bigint,
               period_start timestamptz, resets_at timestamptz, reason text, message text)
LANGUAGE sql STABLE AS $$ SELECT * FROM tiergate.feature_status(subject::text) $$;
