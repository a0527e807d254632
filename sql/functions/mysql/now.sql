-- tiergate_now() → DATETIME(6), UTC: the one clock of routines and sidecar. It is the statement's time.
-- Cost: none. With test_clock it can be moved.
CREATE FUNCTION tiergate_now() RETURNS DATETIME(6)
READS SQL DATA SQL SECURITY DEFINER
RETURN @now@
