-- Internal. tiergate.rolling_take(subject, feature, quantity): takes what was given back off the newest buckets, and none
-- of them below zero: one that is left negative would count against the subject when the others have rolled off.
-- The caller holds the lock of the subject's row.
CREATE OR REPLACE FUNCTION tiergate.rolling_take(subject text, feature text, quantity bigint, at timestamptz) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE tiergate.bucket b
    SET used = greatest(0, b.used - (rolling_take.quantity - n.newer))
    FROM (SELECT w.start, coalesce(sum(w.used) OVER (ORDER BY w.start DESC ROWS UNBOUNDED PRECEDING EXCLUDE CURRENT ROW), 0) AS newer
          FROM tiergate.bucket w
          WHERE w.subject_id = subject AND w.feature = rolling_take.feature AND w.rolls_off > rolling_take.at AND w.used > 0) n
    WHERE b.subject_id = subject AND b.feature = rolling_take.feature AND b.start = n.start AND n.newer < rolling_take.quantity
$$;
