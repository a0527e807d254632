-- tiergate.has_feature(subject, feature) → boolean: may the subject use the feature now?
-- Right even past resets_at while the sidecar is down; the renewal of a billing period is then taken for granted for the
-- time of grace. A subject without a row counts as the default tier with nothing used; an unknown feature is false.
-- Never an error. Cost: one index lookup. In PL/pgSQL, because it is prepared once a session and not once a statement.
CREATE OR REPLACE FUNCTION tiergate.has_feature(subject text, feature text) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN coalesce((
        SELECT fa.allowed OR (fa.reason = 'limit_reached' AND fa.resets_at <= tiergate.now()
            AND (tiergate.current_window(fa.subject_id, fa.feature, fa.tier, fa.used, fa.usage_limit, fa.period_start, fa.resets_at)).used < fa.usage_limit)
        FROM @app@.feature_access fa
        WHERE fa.feature = has_feature.feature AND fa.subject_id IN (has_feature.subject, '*')
        ORDER BY fa.subject_id = '*'
        LIMIT 1), false);
END
$$;

CREATE OR REPLACE FUNCTION tiergate.has_feature(subject uuid, feature text) RETURNS boolean
LANGUAGE sql STABLE RETURN tiergate.has_feature(subject::text, feature);

CREATE OR REPLACE FUNCTION tiergate.has_feature(subject bigint, feature text) RETURNS boolean
LANGUAGE sql STABLE RETURN tiergate.has_feature(subject::text, feature);
