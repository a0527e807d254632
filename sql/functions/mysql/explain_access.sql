-- CALL tiergate_explain_access(subject, feature) → one row, explanation, JSON: the row, the plan behind it, the limit as the
-- sum of plan and open grants (NULL: unlimited), those grants, the subscription the tier comes from, the greatest counts
-- of a gauge, the newest events and how fresh all that is. NULL parts are unknown here. Times are UTC, lengths microseconds.
-- Never an error. Cost: a few index lookups. Not for request paths.
CREATE PROCEDURE tiergate_explain_access(IN p_subject TEXT @bin@, IN p_feature TEXT @bin@)
READS SQL DATA SQL SECURITY DEFINER
BEGIN
    DECLARE v_allowed, v_unlimited, v_planned BOOLEAN;
    DECLARE v_tier TEXT @bin@;
    DECLARE v_limit BIGINT;
    DECLARE v_granted DECIMAL(65);
    DECLARE v_access, v_plan, v_grants, v_known, v_subscriptions, v_gauges, v_events, v_fresh LONGTEXT @bin@;
    DECLARE v_now DATETIME(6) DEFAULT @now@;
    DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;

    CALL tiergate_has(p_subject, p_feature, v_allowed);
    SELECT JSON_OBJECT('subject_id', fa.subject_id, 'feature', fa.feature, 'allowed', JSON_EXTRACT(IF(fa.allowed, 'true', 'false'), '$'), 'tier', fa.tier,
               'used', fa.used, 'usage_limit', fa.usage_limit, 'remaining', fa.remaining, 'period_start', DATE_FORMAT(fa.period_start, '%Y-%m-%dT%H:%i:%s.%fZ'),
               'resets_at', DATE_FORMAT(fa.resets_at, '%Y-%m-%dT%H:%i:%s.%fZ'), 'reason', fa.reason, 'message', fa.message,
               'updated_at', DATE_FORMAT(fa.updated_at, '%Y-%m-%dT%H:%i:%s.%fZ'), 'episode', fa.episode, 'closed_at', DATE_FORMAT(fa.closed_at, '%Y-%m-%dT%H:%i:%s.%fZ'))
    INTO v_access FROM feature_access fa
    WHERE fa.feature = p_feature AND fa.subject_id IN (p_subject, '*') ORDER BY fa.subject_id = '*' LIMIT 1;
    SELECT JSON_ARRAYAGG(JSON_OBJECT('feature', p.feature, 'tier', p.tier, 'loop', p.loop, 'usage_limit', p.usage_limit, 'window_kind', p.window_kind,
               'period', p.period, 'zone', p.zone, 'enforcement', p.enforcement, 'message', p.message, 'unit', p.unit, 'length', p.length,
               'resolution', p.resolution, 'warn_at', JSON_EXTRACT(p.warn_at, '$'), 'grace', p.grace))
    INTO v_plan FROM (SELECT * FROM tiergate_plan q WHERE q.feature = p_feature ORDER BY q.tier LIMIT 1000) p;
    SELECT COALESCE(SUM(g.quantity), 0), COALESCE(MAX(g.quantity IS NULL), FALSE),
           JSON_ARRAYAGG(JSON_OBJECT('id', g.id, 'quantity', g.quantity, 'expires_at', DATE_FORMAT(g.expires_at, '%Y-%m-%dT%H:%i:%s.%fZ'), 'note', g.note,
               'granted_by', g.granted_by, 'granted_at', DATE_FORMAT(g.granted_at, '%Y-%m-%dT%H:%i:%s.%fZ')))
    INTO v_granted, v_unlimited, v_grants
    FROM (SELECT * FROM tiergate_access_grant o WHERE o.subject_id = p_subject AND o.feature = p_feature AND o.ended_at IS NULL
            AND (o.expires_at IS NULL OR o.expires_at > v_now) ORDER BY o.id LIMIT 1000) g;
    SELECT s.tier, JSON_OBJECT('tier', s.tier, 'status', s.status, 'until', DATE_FORMAT(s.tier_until, '%Y-%m-%dT%H:%i:%s.%fZ'),
               'deleted', JSON_EXTRACT(IF(s.deleted, 'true', 'false'), '$'))
    INTO v_tier, v_known FROM tiergate_subject s WHERE s.subject_id = p_subject;
    SELECT TRUE, p.usage_limit INTO v_planned, v_limit FROM tiergate_plan p
    WHERE p.feature = p_feature AND p.tier IN (COALESCE(v_tier, 'free'), 'paid', 'free')
    ORDER BY p.tier <> COALESCE(v_tier, 'free'), p.tier = 'free' LIMIT 1;
    SELECT JSON_ARRAYAGG(JSON_OBJECT('key', m.key, 'subject_id', m.subject_id, 'status', m.status, 'plan', m.plan, 'price', m.price, 'customer', m.customer,
               'period_start', DATE_FORMAT(m.period_start, '%Y-%m-%dT%H:%i:%s.%fZ'), 'period_end', DATE_FORMAT(m.period_end, '%Y-%m-%dT%H:%i:%s.%fZ'),
               'past_due_since', DATE_FORMAT(m.past_due_since, '%Y-%m-%dT%H:%i:%s.%fZ')))
    INTO v_subscriptions FROM (SELECT * FROM tiergate_subscription t WHERE t.subject_id = p_subject ORDER BY t.key LIMIT 1000) m;
    SELECT JSON_ARRAYAGG(JSON_OBJECT('key', g.key, 'endpoint', g.endpoint, 'method', g.method, 'feature', g.feature, 'value', g.value))
    INTO v_gauges FROM (SELECT * FROM tiergate_gauge t WHERE t.subject_id = p_subject ORDER BY t.value DESC, t.key LIMIT 10) g;
    SELECT JSON_ARRAYAGG(JSON_OBJECT('at', DATE_FORMAT(e.at, '%Y-%m-%dT%H:%i:%s.%fZ'), 'kind', e.kind, 'used', e.used, 'usage_limit', e.usage_limit,
               'tier', e.tier, 'episode', e.episode, 'silent', JSON_EXTRACT(IF(e.silent, 'true', 'false'), '$'), 'over_run', e.over_run,
               'email', e.email, 'email_reason', e.email_reason))
    INTO v_events
    FROM (SELECT t.*, m.status AS email, m.reason AS email_reason FROM tiergate_access_event t LEFT JOIN tiergate_email m ON m.event_id = t.id
          WHERE t.subject_id = p_subject AND t.feature IN (p_feature, '') ORDER BY t.id DESC LIMIT 10) e;
    SELECT JSON_OBJECT('position', c.position, 'source_time', DATE_FORMAT(c.source_time, '%Y-%m-%dT%H:%i:%s.%fZ'),
               'applied_at', DATE_FORMAT(c.applied_at, '%Y-%m-%dT%H:%i:%s.%fZ'))
    INTO v_fresh FROM tiergate_checkpoint c;

    SELECT JSON_OBJECT('subject', p_subject, 'feature', p_feature, 'allowed', JSON_EXTRACT(IF(v_allowed, 'true', 'false'), '$'),
        'access', JSON_EXTRACT(v_access, '$'), 'plan', JSON_EXTRACT(v_plan, '$'),
        'limit', IF(v_planned IS NULL, NULL, JSON_EXTRACT(JSON_OBJECT('plan', v_limit + 0, 'granted', IF(v_unlimited, NULL, v_granted + 0), -- + 0: MariaDB quotes a variable
            'effective', IF(v_unlimited, NULL, LEAST(v_limit + v_granted, 9223372036854775807))), '$')),
        'grants', JSON_EXTRACT(v_grants, '$'), 'tier', JSON_EXTRACT(v_known, '$'), 'subscriptions', JSON_EXTRACT(v_subscriptions, '$'),
        'gauges', JSON_EXTRACT(v_gauges, '$'), 'events', JSON_EXTRACT(v_events, '$'), 'freshness', JSON_EXTRACT(v_fresh, '$')) AS explanation;
END
