-- A clock that can be moved, for tests: installed only with test_clock.
CREATE TABLE IF NOT EXISTS tiergate.clock (
    id    int PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    shift interval NOT NULL
);
INSERT INTO tiergate.clock (shift) VALUES ('0') ON CONFLICT DO NOTHING;
REVOKE ALL ON tiergate.clock FROM PUBLIC;
CREATE OR REPLACE FUNCTION tiergate.now() RETURNS timestamptz
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT statement_timestamp() + (SELECT shift FROM tiergate.clock) $$;
