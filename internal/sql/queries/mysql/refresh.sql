-- name: drop buckets
DELETE FROM tiergate.bucket WHERE feature <> ALL($1);
