-- name: lease take
SELECT COALESCE(GET_LOCK(CONCAT('tiergate lease ', LEFT(SHA2(DATABASE(), 256), 20)), 0), 0) = 1;
-- name: lease held
SELECT IS_USED_LOCK(CONCAT('tiergate lease ', LEFT(SHA2(DATABASE(), 256), 20))) IS NOT NULL;
-- name: lease store
INSERT INTO tiergate.lease (term, holder, connection_id, acquired_at) VALUES ($1, $2, CONNECTION_ID(), UTC_TIMESTAMP(6))
ON CONFLICT (id) DO UPDATE SET term = EXCLUDED.term, holder = EXCLUDED.holder, connection_id = EXCLUDED.connection_id, acquired_at = EXCLUDED.acquired_at;
