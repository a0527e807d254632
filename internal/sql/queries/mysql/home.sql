-- name: system
SELECT CAST(@@server_id AS CHAR);
