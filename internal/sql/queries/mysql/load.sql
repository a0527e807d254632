-- name: clock
SELECT tiergate.now(), UTC_TIMESTAMP(6);
-- name: estimate
SELECT COALESCE(t.table_rows, 0) FROM information_schema.tables t WHERE t.table_schema = $1 AND t.table_name = $2;
