-- CALL tiergate_freshness() → one row, position, source_time, lag_seconds: how far behind the flags are: the position they
-- stand at, the commit time of the newest change in them, and the time since the sidecar last said that there is nothing newer.
-- On an idle stream that is up to its acknowledgement interval (60 s). Never an error. Cost: one row.
CREATE PROCEDURE tiergate_freshness()
READS SQL DATA SQL SECURITY DEFINER
    SELECT c.position, c.source_time,
           GREATEST(0, TIMESTAMPDIFF(MICROSECOND, GREATEST(COALESCE(c.source_time, c.applied_at), COALESCE(c.applied_at, c.source_time)), UTC_TIMESTAMP(6)) / 1e6)
               AS lag_seconds
    FROM tiergate_checkpoint c
