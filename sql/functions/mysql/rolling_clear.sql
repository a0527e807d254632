-- Internal. tiergate_rolling_clear(subject, feature, at): deletes the buckets that have rolled off by a moment; NULL: all of them.
-- The caller holds the lock of the subject's row. Each is deleted by its whole key: a range would lock the gap behind it in
-- REPEATABLE READ, and with it other subjects.
CREATE PROCEDURE tiergate_rolling_clear(IN p_subject TEXT @bin@, IN p_feature TEXT @bin@, IN p_at DATETIME(6))
MODIFIES SQL DATA SQL SECURITY DEFINER
BEGIN
    DECLARE v_done BOOLEAN DEFAULT FALSE;
    DECLARE v_start DATETIME(6);
    DECLARE gone CURSOR FOR SELECT b.start FROM tiergate_bucket b
        WHERE b.subject_id = p_subject AND b.feature = p_feature AND COALESCE(b.rolls_off <= p_at, TRUE);
    DECLARE CONTINUE HANDLER FOR NOT FOUND SET v_done = TRUE;

    OPEN gone;
    FETCH gone INTO v_start;
    WHILE NOT v_done DO
        DELETE FROM tiergate_bucket WHERE subject_id = p_subject AND feature = p_feature AND start = v_start;
        FETCH gone INTO v_start;
    END WHILE;
    CLOSE gone;
END
