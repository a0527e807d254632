-- Internal. tiergate_rolling_take(subject, feature, quantity, at): takes what was given back off the newest buckets, and none
-- of them below zero: one that is left negative would count against the subject when the others have rolled off.
-- The caller holds the lock of the subject's row.
CREATE PROCEDURE tiergate_rolling_take(IN p_subject TEXT @bin@, IN p_feature TEXT @bin@, IN p_quantity BIGINT, IN p_at DATETIME(6))
MODIFIES SQL DATA SQL SECURITY DEFINER
BEGIN
    DECLARE v_done BOOLEAN DEFAULT FALSE;
    DECLARE v_start DATETIME(6);
    DECLARE v_used, v_left BIGINT;
    DECLARE newest CURSOR FOR SELECT b.start, b.used FROM tiergate_bucket b
        WHERE b.subject_id = p_subject AND b.feature = p_feature AND b.rolls_off > p_at AND b.used > 0 ORDER BY b.start DESC;
    DECLARE CONTINUE HANDLER FOR NOT FOUND SET v_done = TRUE;

    SET v_left = p_quantity;
    OPEN newest;
    FETCH newest INTO v_start, v_used;
    WHILE NOT v_done AND v_left > 0 DO
        UPDATE tiergate_bucket b SET b.used = v_used - LEAST(v_used, v_left)
        WHERE b.subject_id = p_subject AND b.feature = p_feature AND b.start = v_start;
        SET v_left = v_left - LEAST(v_used, v_left);
        FETCH newest INTO v_start, v_used;
    END WHILE;
    CLOSE newest;
END
