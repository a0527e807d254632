-- tiergate.now() → timestamptz: the one clock of functions and sidecar. It is the statement's time.
-- Cost: none. With test_clock it is replaced by one that can be moved.
CREATE OR REPLACE FUNCTION tiergate.now() RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE
RETURN statement_timestamp();
