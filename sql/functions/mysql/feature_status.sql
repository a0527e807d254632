-- CALL tiergate_feature_status(subject) → one row for each feature: what a usage page shows. Columns: feature, allowed, tier,
-- used, usage_limit, remaining, period_start, resets_at, reason, message; times are UTC.
-- used counts uses in the open window, remaining and usage_limit are NULL where unlimited, a window
-- that is over reads as empty, a rolling one as what has not rolled off. Never an error. Cost: one index range.
CREATE PROCEDURE tiergate_feature_status(IN p_subject TEXT @bin@)
READS SQL DATA SQL SECURITY DEFINER
BEGIN
    DECLARE v_now DATETIME(6) DEFAULT @now@;
    WITH mine AS (
        SELECT fa.* FROM feature_access fa
        WHERE fa.subject_id = p_subject
            OR (fa.subject_id = '*' AND NOT EXISTS (SELECT 1 FROM feature_access o WHERE o.subject_id = p_subject AND o.feature = fa.feature))
    ), plans AS (
        SELECT p.feature, MAX(p.window_kind) AS kind, MAX(p.grace) AS grace FROM tiergate_plan p GROUP BY p.feature -- the loop's: alike for all tiers
    ), live AS (
        SELECT w.feature, w.start, w.rolls_off, w.used,
               SUM(w.used) OVER (PARTITION BY w.feature) - SUM(w.used) OVER (PARTITION BY w.feature ORDER BY w.start) AS behind
        FROM tiergate_bucket w WHERE w.subject_id = p_subject AND w.rolls_off > v_now
    ), rolled AS (
        SELECT b.feature, LEAST(SUM(b.used), 9223372036854775807) AS used, MIN(b.start) AS start,
               IF(SUM(b.used) >= MAX(m.usage_limit) OR MAX(m.usage_limit) = 0,
                   COALESCE(MIN(IF(b.behind < m.usage_limit, b.rolls_off, NULL)), MAX(b.rolls_off)), MIN(b.rolls_off)) AS resets_at
        FROM live b JOIN mine m ON m.feature = b.feature GROUP BY b.feature
    ), ended AS (
        SELECT m.feature, p.kind = 'rolling' AS rolling
        FROM mine m LEFT JOIN plans p ON p.feature = m.feature
        WHERE m.resets_at <= v_now AND NOT (COALESCE(p.kind, '') = 'billing' AND m.resets_at + INTERVAL p.grace MICROSECOND <= v_now
            AND EXISTS (SELECT 1 FROM tiergate_subject s WHERE s.subject_id = m.subject_id AND s.billing_end > s.billing_start))
    ), state AS (
        SELECT m.feature, m.allowed, m.tier, m.usage_limit, m.reason, m.message,
               CASE WHEN e.feature IS NULL THEN m.used WHEN e.rolling THEN COALESCE(r.used, 0) ELSE 0 END AS used,
               CASE WHEN e.feature IS NULL THEN m.period_start WHEN e.rolling THEN r.start END AS period_start,
               CASE WHEN e.feature IS NULL THEN m.resets_at WHEN e.rolling THEN r.resets_at END AS resets_at
        FROM mine m LEFT JOIN ended e ON e.feature = m.feature LEFT JOIN rolled r ON r.feature = m.feature
    ), opened AS (
        SELECT s.*, COALESCE(s.reason = 'limit_reached' AND s.used < s.usage_limit, FALSE) AS reopened FROM state s
    )
    SELECT s.feature, s.allowed OR s.reopened AS allowed, s.tier, CAST(s.used AS SIGNED) AS used, s.usage_limit,
           CAST(GREATEST(0, LEAST(CAST(s.usage_limit AS DECIMAL(20)) - s.used, 9223372036854775807)) AS SIGNED) AS remaining,
           s.period_start, s.resets_at, IF(s.reopened, NULL, s.reason) AS reason, IF(s.reopened, NULL, s.message) AS message
    FROM opened s ORDER BY s.feature;
END
