-- Internal. tiergate_grant_event(kind, subject, feature, now): records that a grant began or was revoked, with what the
-- subject's row says at that moment. Never an error. Cost: a few index lookups and an insert.
CREATE PROCEDURE tiergate_grant_event(IN p_kind TEXT @bin@, IN p_subject TEXT @bin@, IN p_feature TEXT @bin@, IN p_now DATETIME(6))
MODIFIES SQL DATA SQL SECURITY DEFINER
BEGIN
    DECLARE v_tier, v_loop TEXT @bin@;
    DECLARE v_used, v_limit, v_planned, v_episode BIGINT;
    DECLARE v_there BOOLEAN;
    DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
    SET v_tier = COALESCE((SELECT s.tier FROM tiergate_subject s WHERE s.subject_id = p_subject), 'free');
    SELECT p.loop, p.usage_limit INTO v_loop, v_planned
    FROM tiergate_plan p
    WHERE p.feature = p_feature AND p.tier IN (v_tier, 'paid', 'free')
    ORDER BY p.tier <> v_tier, p.tier = 'free' LIMIT 1;
    SELECT TRUE, fa.used, fa.usage_limit, fa.episode INTO v_there, v_used, v_limit, v_episode
    FROM feature_access fa WHERE fa.subject_id = p_subject AND fa.feature = p_feature;
    CALL tiergate_record_event(p_kind, p_subject, p_feature, COALESCE(v_loop, ''), v_tier, COALESCE(v_used, 0),
        IF(v_there IS NULL, v_planned, v_limit), COALESCE(v_episode, 0), p_now, p_now, NULL, 0, FALSE);
END
