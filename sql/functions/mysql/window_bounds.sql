-- Internal. tiergate_window_bounds(kind, unit, length, zone, billing_start, billing_end, at, floor, OUT period_start,
-- OUT resets_at): the window that a use at this moment opens, half-open. No bounds for lifetime and rolling.
-- Columns of tiergate_plan and tiergate_subject; floor is the end of the last window, NULL where there was none.
-- Months are counted in UTC and the day is clamped, as internal/loops/window.go does it; windows of a zone are in tiergate_calendar.
-- Errors: SQLSTATE 45000 for a calendar window that tiergate_calendar does not have.
CREATE PROCEDURE tiergate_window_bounds(IN p_kind TEXT @bin@, IN p_unit TEXT @bin@, IN p_length BIGINT, IN p_zone TEXT @bin@,
    IN p_billing_start DATETIME(6), IN p_billing_end DATETIME(6), IN p_at DATETIME(6), IN p_floor DATETIME(6),
    OUT o_start DATETIME(6), OUT o_end DATETIME(6))
READS SQL DATA SQL SECURITY DEFINER
BEGIN
    DECLARE v_months INT;      -- of a billing period; NULL: it has a fixed length
    DECLARE v_length, v_past, v_k BIGINT; -- how many billing periods after the known one
    DECLARE v_text TEXT @bin@;
    DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;

    IF p_kind = 'billing' AND COALESCE(p_billing_end > p_billing_start, FALSE) THEN
        SET v_months = CASE p_billing_end
            WHEN p_billing_start + INTERVAL 1 MONTH THEN 1 WHEN p_billing_start + INTERVAL 2 MONTH THEN 2
            WHEN p_billing_start + INTERVAL 3 MONTH THEN 3 WHEN p_billing_start + INTERVAL 6 MONTH THEN 6
            WHEN p_billing_start + INTERVAL 12 MONTH THEN 12 WHEN p_billing_start + INTERVAL 24 MONTH THEN 24
            WHEN p_billing_start + INTERVAL 36 MONTH THEN 36 END;
        IF v_months IS NOT NULL THEN
            -- Every period counts from the known start, so that the 31st comes back.
            SET v_k = FLOOR(((CAST(YEAR(p_at) AS SIGNED) - CAST(YEAR(p_billing_start) AS SIGNED)) * 12 + CAST(MONTH(p_at) AS SIGNED) - MONTH(p_billing_start)) / v_months);
            IF p_billing_start + INTERVAL v_k * v_months MONTH > p_at THEN
                SET v_k = v_k - 1;
            END IF;
            SET o_start = p_billing_start + INTERVAL v_k * v_months MONTH,
                o_end = p_billing_start + INTERVAL (v_k + 1) * v_months MONTH;
        ELSE
            SET v_length = TIMESTAMPDIFF(MICROSECOND, p_billing_start, p_billing_end),
                v_past = TIMESTAMPDIFF(MICROSECOND, p_billing_start, p_at);
            SET v_k = v_past DIV v_length;
            IF v_k * v_length > v_past THEN
                SET v_k = v_k - 1;
            END IF;
            SET o_start = p_billing_start + INTERVAL v_k * v_length MICROSECOND,
                o_end = p_billing_start + INTERVAL (v_k + 1) * v_length MICROSECOND;
        END IF;
        SET o_start = GREATEST(o_start, COALESCE(p_floor, o_start));
    ELSEIF p_kind IN ('anchored', 'billing') THEN
        SET o_start = p_at - INTERVAL (SECOND(p_at) + 60) * 1000000 + MICROSECOND(p_at) MICROSECOND;
        SET o_start = GREATEST(o_start, COALESCE(p_floor, o_start));
        SET o_end = CASE WHEN p_length IS NOT NULL THEN o_start + INTERVAL p_length MICROSECOND
            WHEN p_unit = 'year' THEN o_start + INTERVAL 1 YEAR
            ELSE o_start + INTERVAL 1 MONTH END;
    ELSEIF p_kind = 'calendar' THEN
        SELECT c.starts_at, c.ends_at INTO o_start, o_end
        FROM tiergate_calendar c
        WHERE c.zone = p_zone AND c.unit = p_unit AND c.starts_at <= p_at
        ORDER BY c.starts_at DESC LIMIT 1;
        IF COALESCE(o_end <= p_at, TRUE) THEN
            SET v_text = LEFT(CONCAT('tiergate_calendar has no ', p_unit, ' of ', p_zone, ' for ', p_at, ': start the sidecar, it fills it'), 128);
            SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = v_text;
        END IF;
        SET o_start = GREATEST(o_start, COALESCE(p_floor, o_start));
    END IF;
END
