-- tiergate.explain_access(subject, feature) → json: the row, the plan behind it, the limit as the sum of plan
-- and open grants (NULL: unlimited), those grants, the subscription the tier comes from, the greatest counts
-- of a gauge, the newest events and how fresh all that is. NULL parts are unknown here.
-- Never an error. Cost: a few index lookups. Not for request paths.
CREATE OR REPLACE FUNCTION tiergate.explain_access(subject text, feature text) RETURNS json
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    WITH open AS (SELECT g.id, g.quantity, g.expires_at, g.note, g.granted_by, g.granted_at FROM tiergate.access_grant g
                  WHERE g.subject_id = subject AND g.feature = explain_access.feature
                    AND g.ended_at IS NULL AND (g.expires_at IS NULL OR g.expires_at > tiergate.now()))
    SELECT json_build_object(
        'subject', subject,
        'feature', feature,
        'allowed', tiergate.has_feature(subject, feature),
        'access', (SELECT to_json(fa) FROM @app@.feature_access fa
                   WHERE fa.feature = explain_access.feature AND fa.subject_id IN (subject, '*')
                   ORDER BY fa.subject_id = '*' LIMIT 1),
        'plan', (SELECT json_agg(p ORDER BY p.tier) FROM tiergate.plan p WHERE p.feature = explain_access.feature),
        'limit', (SELECT json_build_object('plan', p.usage_limit, 'granted', CASE WHEN NOT g.unlimited THEN g.quantity END,
                      'effective', CASE WHEN p.usage_limit IS NOT NULL AND NOT g.unlimited
                                        THEN least(p.usage_limit + g.quantity, 9223372036854775807) END)
                  FROM (SELECT coalesce((SELECT s.tier FROM tiergate.subject s WHERE s.subject_id = subject), 'free') AS tier) t
                  JOIN tiergate.plan p ON p.feature = explain_access.feature AND p.tier IN (t.tier, 'paid', 'free'),
                       (SELECT coalesce(sum(o.quantity), 0) AS quantity, count(*) > count(o.quantity) AS unlimited FROM open o) g
                  ORDER BY p.tier <> t.tier, p.tier = 'free' LIMIT 1),
        'grants', (SELECT json_agg(o ORDER BY o.id) FROM open o),
        'tier', (SELECT json_build_object('tier', s.tier, 'status', s.status, 'until', s.tier_until, 'deleted', s.deleted)
                 FROM tiergate.subject s WHERE s.subject_id = subject),
        'subscriptions', (SELECT json_agg(m ORDER BY m.key) FROM tiergate.subscription m WHERE m.subject_id = subject),
        'gauges', (SELECT json_agg(g) FROM (SELECT g.key, g.endpoint, g.method, g.feature, g.value FROM tiergate.gauge g
                     WHERE g.subject_id = subject ORDER BY g.value DESC, g.key LIMIT 10) g),
        'events', (SELECT json_agg(e) FROM (
                     SELECT e.at, e.kind, e.used, e.usage_limit, e.tier, e.episode, e.silent, e.over_run, m.status AS email, m.reason AS email_reason
                     FROM tiergate.access_event e LEFT JOIN tiergate.email m ON m.event_id = e.id
                     WHERE e.subject_id = subject AND e.feature IN (explain_access.feature, '')
                     ORDER BY e.id DESC LIMIT 10) e),
        'freshness', (SELECT to_json(f) FROM tiergate.freshness() f))
$$;

CREATE OR REPLACE FUNCTION tiergate.explain_access(subject uuid, feature text) RETURNS json
LANGUAGE sql STABLE RETURN tiergate.explain_access(subject::text, feature);

CREATE OR REPLACE FUNCTION tiergate.explain_access(subject bigint, feature text) RETURNS json
LANGUAGE sql STABLE RETURN tiergate.explain_access(subject::text, feature);
