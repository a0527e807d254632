-- CALL tiergate_require_feature(subject, feature): returns where the subject may use the feature, raises SQLSTATE PT402
-- (error 1644) with the loop's message, the first 128 characters of it, where not.
-- Records nothing. Cost: one index lookup, two where it raises.
CREATE PROCEDURE tiergate_require_feature(IN p_subject TEXT @bin@, IN p_feature TEXT @bin@)
READS SQL DATA SQL SECURITY DEFINER
BEGIN
    DECLARE v_allowed BOOLEAN;
    DECLARE v_text TEXT @bin@;
    DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
    CALL tiergate_has(p_subject, p_feature, v_allowed);
    IF NOT v_allowed THEN
        SELECT fa.message INTO v_text
        FROM feature_access fa
        WHERE fa.feature = p_feature AND fa.subject_id IN (p_subject, '*')
        ORDER BY fa.subject_id = '*'
        LIMIT 1;
        SET v_text = LEFT(COALESCE(NULLIF(v_text, ''), CONCAT(COALESCE(p_feature, 'this'), ' is not available')), 128);
        SIGNAL SQLSTATE 'PT402' SET MESSAGE_TEXT = v_text;
    END IF;
END
