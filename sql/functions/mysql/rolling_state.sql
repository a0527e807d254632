-- Internal. tiergate_rolling_state(subject, feature, usage_limit, at, OUT used, OUT period_start, OUT resets_at): what the
-- buckets of a rolling window say at a moment; all NULL where none is left. resets_at is when the next use fits again, else
-- when the oldest bucket rolls off.
CREATE PROCEDURE tiergate_rolling_state(IN p_subject TEXT @bin@, IN p_feature TEXT @bin@, IN p_limit BIGINT, IN p_at DATETIME(6),
    OUT o_used BIGINT, OUT o_start DATETIME(6), OUT o_resets_at DATETIME(6))
READS SQL DATA SQL SECURITY DEFINER
    SELECT LEAST(SUM(b.used), 9223372036854775807), MIN(b.start),
           IF(SUM(b.used) >= p_limit OR p_limit = 0,
               COALESCE(MIN(IF(b.behind < p_limit, b.rolls_off, NULL)), MAX(b.rolls_off)), MIN(b.rolls_off))
    INTO o_used, o_start, o_resets_at
    FROM (SELECT w.start, w.rolls_off, w.used, SUM(w.used) OVER () - SUM(w.used) OVER (ORDER BY w.start) AS behind
          FROM tiergate_bucket w
          WHERE w.subject_id = p_subject AND w.feature = p_feature AND w.rolls_off > p_at) b
