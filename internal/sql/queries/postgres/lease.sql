-- name: lease take
SELECT pg_try_advisory_lock(1413955924, 1);
-- name: lease held
SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = 1413955924 AND objid = 1 AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database()));
-- name: lease store
INSERT INTO tiergate.lease (term, holder, backend_pid, acquired_at) VALUES ($1, $2, pg_backend_pid(), now())
ON CONFLICT (id) DO UPDATE SET term = EXCLUDED.term, holder = EXCLUDED.holder, backend_pid = EXCLUDED.backend_pid, acquired_at = EXCLUDED.acquired_at;
