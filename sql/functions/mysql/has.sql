-- tiergate_has(subject, feature, OUT allowed): what tiergate_has_feature returns, for routines, and for servers
-- that allow no stored functions.
CREATE PROCEDURE tiergate_has(IN p_subject TEXT @bin@, IN p_feature TEXT @bin@, OUT o_allowed BOOLEAN)
READS SQL DATA SQL SECURITY DEFINER
BEGIN
    DECLARE v_tier, v_reason, v_kind TEXT @bin@;
    DECLARE v_used, v_limit, v_grace BIGINT;
    DECLARE v_start, v_resets_at, v_now DATETIME(6);
    DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;

    SELECT fa.allowed, fa.tier, fa.used, fa.usage_limit, fa.resets_at, fa.reason
    INTO o_allowed, v_tier, v_used, v_limit, v_resets_at, v_reason
    FROM feature_access fa
    WHERE fa.feature = p_feature AND fa.subject_id IN (p_subject, '*')
    ORDER BY fa.subject_id = '*'
    LIMIT 1;
    SET o_allowed = COALESCE(o_allowed, FALSE), v_now = @now@;
    IF NOT o_allowed AND v_reason = 'limit_reached' AND v_resets_at <= v_now THEN
        SELECT p.window_kind, p.grace INTO v_kind, v_grace
        FROM tiergate_plan p WHERE p.feature = p_feature ORDER BY p.tier = v_tier DESC LIMIT 1;
        IF v_kind = 'rolling' THEN
            CALL tiergate_rolling_state(p_subject, p_feature, v_limit, v_now, v_used, v_start, v_resets_at);
            SET v_used = COALESCE(v_used, 0);
        ELSEIF COALESCE(v_kind, '') <> 'billing' OR v_resets_at + INTERVAL v_grace MICROSECOND > v_now
                OR NOT EXISTS (SELECT 1 FROM tiergate_subject s WHERE s.subject_id = p_subject AND s.billing_end > s.billing_start) THEN
            SET v_used = 0;
        END IF;
        SET o_allowed = COALESCE(v_used < v_limit, FALSE);
    END IF;
END
