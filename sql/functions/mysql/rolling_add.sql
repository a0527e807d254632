-- Internal. tiergate_rolling_add(subject, feature, quantity, at, length, resolution): adds a use to the bucket of its
-- moment. The caller holds the lock of the subject's row. Buckets that have rolled off go when a new one is begun.
-- Every statement that locks names one whole key that is there: in REPEATABLE READ anything else would lock the gap beside it,
-- and with it other subjects.
CREATE PROCEDURE tiergate_rolling_add(IN p_subject TEXT @bin@, IN p_feature TEXT @bin@, IN p_quantity BIGINT, IN p_at DATETIME(6),
    IN p_length BIGINT, IN p_resolution BIGINT)
MODIFIES SQL DATA SQL SECURITY DEFINER
BEGIN
    DECLARE v_done BOOLEAN DEFAULT FALSE;
    DECLARE v_start DATETIME(6);
    DECLARE v_epoch DATETIME(6) DEFAULT '1970-01-01';
    DECLARE v_begins DATETIME(6) DEFAULT v_epoch + INTERVAL TIMESTAMPDIFF(MICROSECOND, v_epoch, p_at) DIV p_resolution * p_resolution MICROSECOND;
    DECLARE gone CURSOR FOR SELECT b.start FROM tiergate_bucket b
        WHERE b.subject_id = p_subject AND b.feature = p_feature AND b.rolls_off <= p_at;
    DECLARE CONTINUE HANDLER FOR NOT FOUND SET v_done = TRUE;

    IF EXISTS (SELECT 1 FROM tiergate_bucket b WHERE b.subject_id = p_subject AND b.feature = p_feature AND b.start = v_begins) THEN
        UPDATE tiergate_bucket b SET b.used = LEAST(CAST(b.used AS DECIMAL(20)) + p_quantity, 9223372036854775807)
        WHERE b.subject_id = p_subject AND b.feature = p_feature AND b.start = v_begins;
    ELSE
        OPEN gone;
        FETCH gone INTO v_start;
        WHILE NOT v_done DO
            DELETE FROM tiergate_bucket WHERE subject_id = p_subject AND feature = p_feature AND start = v_start;
            FETCH gone INTO v_start;
        END WHILE;
        CLOSE gone;
        INSERT INTO tiergate_bucket (subject_id, feature, start, rolls_off, used)
        VALUES (p_subject, p_feature, v_begins, v_begins + INTERVAL p_length + p_resolution MICROSECOND, p_quantity);
    END IF;
END
