-- tiergate.grant_event(kind, subject, feature) → void: records that a grant began or was revoked, with what the
-- subject's row says at that moment. For grant_feature and revoke_grant: it runs with its caller's rights, and
-- nobody else may write events. Never an error. Cost: a few index lookups and an insert.
CREATE OR REPLACE FUNCTION tiergate.grant_event(kind text, subject text, feature text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO tiergate.access_event (at, recorded_at, kind, subject_id, feature, loop, tier, used, usage_limit, episode, position, silent)
    SELECT tiergate.now(), tiergate.now(), grant_event.kind, subject, grant_event.feature, coalesce(p.loop, ''), t.tier, coalesce(fa.used, 0),
           CASE WHEN fa.subject_id IS NULL THEN p.usage_limit ELSE fa.usage_limit END, coalesce(fa.episode, 0), '', false
    FROM (SELECT coalesce((SELECT s.tier FROM tiergate.subject s WHERE s.subject_id = subject), 'free') AS tier) t
    LEFT JOIN LATERAL (SELECT p.loop, p.usage_limit FROM tiergate.plan p
                       WHERE p.feature = grant_event.feature AND p.tier IN (t.tier, 'paid', 'free')
                       ORDER BY p.tier <> t.tier, p.tier = 'free' LIMIT 1) p ON true
    LEFT JOIN @app@.feature_access fa ON fa.subject_id = subject AND fa.feature = grant_event.feature
$$;
