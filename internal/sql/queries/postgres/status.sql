-- name: installed
SELECT to_regclass('tiergate.checkpoint') IS NOT NULL;
