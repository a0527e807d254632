-- Internal. tiergate_rolling_add(subject, feature, quantity, at, length, resolution): adds a use to the bucket of its
-- moment. The caller holds the lock of the subject's row. Buckets that have rolled off go when a new one is begun.
-- Nothing but a whole key that is there is locked, as in tiergate_rolling_clear.
CREATE PROCEDURE tiergate_rolling_add(IN p_subject TEXT @bin@, IN p_feature TEXT @bin@, IN p_quantity BIGINT, IN p_at DATETIME(6),
    IN p_length BIGINT, IN p_resolution BIGINT)
MODIFIES SQL DATA SQL SECURITY DEFINER
BEGIN
    DECLARE v_epoch DATETIME(6) DEFAULT '1970-01-01';
    DECLARE v_begins DATETIME(6) DEFAULT v_epoch + INTERVAL TIMESTAMPDIFF(MICROSECOND, v_epoch, p_at) DIV p_resolution * p_resolution MICROSECOND;

    IF EXISTS (SELECT 1 FROM tiergate_bucket b WHERE b.subject_id = p_subject AND b.feature = p_feature AND b.start = v_begins) THEN
        UPDATE tiergate_bucket b SET b.used = LEAST(CAST(b.used AS DECIMAL(20)) + p_quantity, 9223372036854775807)
        WHERE b.subject_id = p_subject AND b.feature = p_feature AND b.start = v_begins;
    ELSE
        CALL tiergate_rolling_clear(p_subject, p_feature, p_at);
        INSERT INTO tiergate_bucket (subject_id, feature, start, rolls_off, used)
        VALUES (p_subject, p_feature, v_begins, v_begins + INTERVAL p_length + p_resolution MICROSECOND, p_quantity);
    END IF;
END
