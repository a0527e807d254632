-- name: clock
SELECT tiergate.now(), statement_timestamp();
-- name: estimate
SELECT reltuples FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2;
